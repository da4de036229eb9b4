"""Customers, tiers, preferences, brokers' customers, refresh tokens; the tiers of the contract."""

from alembic import op

from customer_service.models import metadata
from shared.db import migrations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.create_common_tables(metadata)
    migrations.create_tables(
        metadata,
        "customer_tiers",
        "customers",
        "notification_preferences",
        "broker_customers",
        "refresh_tokens",
        "sign_in_failures",
    )
    op.execute(
        "INSERT INTO customer_tiers (tier_code, tier_name, priority, rate_limit) VALUES "
        "('VIP', 'VIP', 1, 1000), ('PREMIUM', 'Premium', 2, 500), ('STANDARD', 'Standard', 3, 100)"
    )
