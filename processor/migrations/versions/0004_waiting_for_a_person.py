"""What waits for a person has an index: parked outbox batches, sagas in NEEDS_HUMAN."""

import sqlalchemy as sa
from alembic import op

from shared.db import migrations

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.add_parked_batches_v3()
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
