"""What is overdue has an index: parked outbox batches, reservations of orders whose time is over."""

import sqlalchemy as sa
from alembic import op

from shared.db import migrations

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.add_parked_batches_v3()
    op.create_index(
        "idx_asset_reservations_expires_at",
        "asset_reservations",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("expires_at IS NOT NULL"),
    )
