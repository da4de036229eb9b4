"""Orders, their history, client ids, the projection of instruments."""

from order_service.models import metadata
from shared.db import migrations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.create_common_tables(metadata)
    migrations.create_tables(metadata, "orders", "order_history", "client_order_ids", "instruments")
    migrations.append_only("order_history")
