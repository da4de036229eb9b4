"""Sagas, the matching queue, trades."""

from processor.models import metadata
from shared.db import migrations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.create_common_tables(metadata)
    migrations.create_tables(metadata, "saga_instances", "matching_queue", "trades", "instruments")
