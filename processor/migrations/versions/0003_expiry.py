"""Orders whose time is over: the saga's state LAPSING, and an index to find them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint(op.f("ck_saga_instances_current_state"), "saga_instances", type_="check")
    op.create_check_constraint(
        op.f("ck_saga_instances_current_state"),
        "saga_instances",
        "CASE saga_type WHEN 'ORDER' THEN current_state IN ('RESERVING', 'CONFIRMING', 'REJECTING', "
        "'RESTING', 'CLOSING', 'LAPSING', 'RELEASING', 'CANCELING', 'EXPIRING', 'FINISHING', 'COMPLETED', "
        "'CANCELED', 'EXPIRED', 'REJECTED', 'NEEDS_HUMAN') ELSE current_state IN ('SETTLING', "
        "'SETTLED', 'BUSTED', 'NEEDS_HUMAN') END",
    )
    op.create_index(
        "idx_matching_queue_expires_at",
        "matching_queue",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("on_book AND expires_at IS NOT NULL"),
    )
