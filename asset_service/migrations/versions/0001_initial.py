"""Instruments, assets, reservations, the ledger, transfers, settlements."""

from asset_service.models import metadata
from shared.db import migrations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.create_common_tables(metadata)
    migrations.create_tables(
        metadata,
        "instruments",
        "assets",
        "asset_reservations",
        "ledger_accounts",
        "ledger_transactions",
        "ledger_entries",
        "transfers",
        "settlements",
    )
    migrations.append_only("ledger_transactions")
    migrations.append_only("ledger_entries")
