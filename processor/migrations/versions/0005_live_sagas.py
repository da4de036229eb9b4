"""Less to write at each step of a saga.

Sagas are found by whether they have ended, which changes once, instead of whether they await an answer, which changes at nearly
every step: so their updates stay on the page. And all that changes stands behind the payload.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _current_state_to_the_end()
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
    op.add_column(
        "saga_instances",
        sa.Column(
            "needs_human", sa.Boolean(), sa.Computed("current_state = 'NEEDS_HUMAN'", persisted=True), nullable=True
        ),
    )
    op.create_index(
        "idx_saga_instances_needs_human",
        "saga_instances",
        ["saga_id"],
        unique=False,
        postgresql_where=sa.text("needs_human"),
    )
    op.drop_index("idx_saga_instances_awaiting", table_name="saga_instances")
    op.create_index(
        "idx_saga_instances_live", "saga_instances", ["saga_id"], unique=False, postgresql_where=sa.text("live")
    )
    op.execute("ALTER TABLE saga_instances SET (fillfactor = 50)")


def _current_state_to_the_end() -> None:
    # What is computed from it goes with it, and comes back.
    op.drop_index("idx_saga_instances_needs_human", table_name="saga_instances")
    op.drop_column("saga_instances", "needs_human")
    op.drop_constraint(op.f("ck_saga_instances_current_state"), "saga_instances", type_="check")
    op.alter_column("saga_instances", "current_state", new_column_name="former_state")
    op.add_column("saga_instances", sa.Column("current_state", sa.Text(), nullable=True))
    op.execute("UPDATE saga_instances SET current_state = former_state")
    op.drop_column("saga_instances", "former_state")
    op.alter_column("saga_instances", "current_state", nullable=False)
    op.create_check_constraint(
        op.f("ck_saga_instances_current_state"),
        "saga_instances",
        "CASE saga_type WHEN 'ORDER' THEN current_state IN ('RESERVING', 'CONFIRMING', 'REJECTING', "
        "'RESTING', 'CLOSING', 'LAPSING', 'RELEASING', 'CANCELING', 'EXPIRING', 'FINISHING', 'COMPLETED', "
        "'CANCELED', 'EXPIRED', 'REJECTED', 'NEEDS_HUMAN') ELSE current_state IN ('SETTLING', "
        "'SETTLED', 'BUSTED', 'NEEDS_HUMAN') END",
    )
