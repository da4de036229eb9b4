"""Parked outbox batches have an index."""

from shared.db import migrations

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.add_parked_batches_v3()
