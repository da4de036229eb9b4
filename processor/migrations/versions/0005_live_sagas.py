"""Sagas are found by whether they have ended, which changes once, instead of whether they await an answer, which changes at nearly
every step: so their updates stay on the page."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "saga_instances",
        sa.Column(
            "live",
            sa.Boolean(),
            sa.Computed(
                "current_state NOT IN ('BUSTED', 'CANCELED', 'COMPLETED', 'EXPIRED', 'REJECTED', 'SETTLED')",
                persisted=True,
            ),
            nullable=True,
        ),
    )
    op.drop_index("idx_saga_instances_awaiting", table_name="saga_instances")
    op.create_index(
        "idx_saga_instances_live", "saga_instances", ["saga_id"], unique=False, postgresql_where=sa.text("live")
    )
    op.execute("ALTER TABLE saga_instances SET (fillfactor = 50)")
