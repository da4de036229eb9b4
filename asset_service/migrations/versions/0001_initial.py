"""Instruments, assets, reservations, the ledger, transfers, settlements."""

import sqlalchemy as sa
from alembic import op

from shared.db import migrations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.create_common_tables_v1()
    _instruments()
    _assets()
    _asset_reservations()
    _ledger_accounts()
    _ledger_transactions()
    _ledger_entries()
    _transfers()
    _settlements()
    migrations.append_only("ledger_transactions")
    migrations.append_only("ledger_entries")


def _instruments() -> None:
    op.create_table(
        "instruments",
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column("quote_asset", sa.Text(), nullable=True),
        sa.Column("size_scale", sa.Integer(), nullable=False),
        sa.Column("price_scale", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), server_default="TRADING", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint("quote_asset IS NOT NULL OR price_scale = 0", name=op.f("ck_instruments_cash")),
        sa.CheckConstraint("quote_asset <> asset_name", name=op.f("ck_instruments_quote_asset")),
        sa.CheckConstraint(
            "size_scale BETWEEN 0 AND 18 AND price_scale BETWEEN 0 AND 18", name=op.f("ck_instruments_scales")
        ),
        sa.CheckConstraint("status IN ('TRADING', 'HALTED')", name=op.f("ck_instruments_status")),
        sa.ForeignKeyConstraint(["quote_asset"], ["instruments.asset_name"], name=op.f("fk_instruments_quote_asset")),
        sa.PrimaryKeyConstraint("asset_name", name=op.f("pk_instruments")),
    )


def _assets() -> None:
    op.create_table(
        "assets",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column("size", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("usable_size", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("low_balance", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "organization_id",
            sa.UUID(as_uuid=False),
            server_default="00000000-0000-7000-8000-000000000001",
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint("usable_size >= 0 AND usable_size <= size", name=op.f("ck_assets_usable_size")),
        sa.ForeignKeyConstraint(["asset_name"], ["instruments.asset_name"], name=op.f("fk_assets_asset_name")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assets")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index("idx_assets_customer_name", "assets", ["customer_id", "asset_name"], unique=True)
    op.create_index(
        "idx_assets_low_balance", "assets", ["customer_id"], unique=False, postgresql_where=sa.text("low_balance")
    )


def _asset_reservations() -> None:
    op.create_table(
        "asset_reservations",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("asset_id", sa.BigInteger(), nullable=True),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("asset_name", sa.Text(), nullable=True),
        sa.Column("order_id", sa.UUID(as_uuid=False), nullable=True),
        sa.Column("holder_type", sa.Text(), nullable=False),
        sa.Column("holder_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("leg", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("consumed", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("released", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column(
            "remaining",
            sa.Numeric(precision=38, scale=18),
            sa.Computed("amount - consumed - released", persisted=True),
            nullable=True,
        ),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("release_reason", sa.Text(), nullable=True),
        sa.Column("release_amount", sa.Numeric(precision=38, scale=18), nullable=True),
        sa.Column("order_side", sa.Text(), nullable=True),
        sa.Column("traded_asset", sa.Text(), nullable=True),
        sa.Column("quote_asset", sa.Text(), nullable=True),
        sa.Column("quote_scale", sa.Integer(), nullable=True),
        sa.Column("limit_price", sa.Numeric(precision=38, scale=18), nullable=True),
        sa.Column("open_size", sa.Numeric(precision=38, scale=18), nullable=True),
        sa.Column("filled_notional", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("fee_rate", sa.Numeric(precision=38, scale=18), nullable=True),
        sa.Column("fee_minimum", sa.Numeric(precision=38, scale=18), nullable=True),
        sa.Column("fee_charged", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column(
            "organization_id",
            sa.UUID(as_uuid=False),
            server_default="00000000-0000-7000-8000-000000000001",
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "amount >= 0 AND consumed >= 0 AND released >= 0", name=op.f("ck_asset_reservations_amounts")
        ),
        sa.CheckConstraint(
            "refusal IS NOT NULL OR (asset_id IS NOT NULL AND asset_name IS NOT NULL)",
            name=op.f("ck_asset_reservations_asset"),
        ),
        sa.CheckConstraint(
            "status = 'ACTIVE' OR amount - consumed - released = 0",
            name=op.f("ck_asset_reservations_blocks_while_active"),
        ),
        sa.CheckConstraint(
            "refusal IS NULL OR (status = 'RELEASED' AND amount = 0)", name=op.f("ck_asset_reservations_refusal")
        ),
        sa.CheckConstraint("amount - consumed - released >= 0", name=op.f("ck_asset_reservations_remaining")),
        sa.CheckConstraint(
            "status IN ('ACTIVE', 'SETTLED', 'RELEASED', 'EXPIRED')", name=op.f("ck_asset_reservations_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_asset_reservations")),
        sa.UniqueConstraint(
            "holder_type", "holder_id", "leg", name=op.f("uq_asset_reservations_holder_type_holder_id_leg")
        ),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index("idx_asset_reservations_customer_id", "asset_reservations", ["customer_id", "id"], unique=False)


def _ledger_accounts() -> None:
    op.create_table(
        "ledger_accounts",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("account_class", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=True),
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column(
            "organization_id",
            sa.UUID(as_uuid=False),
            server_default="00000000-0000-7000-8000-000000000001",
            nullable=False,
        ),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint(
            "account_class IN ('CUSTOMER', 'HOUSE', 'FEE', 'EXTERNAL', 'ROUNDING', 'ESCROW', 'PARTNER')",
            name=op.f("ck_ledger_accounts_account_class"),
        ),
        sa.PrimaryKeyConstraint("account_id", name=op.f("pk_ledger_accounts")),
    )
    op.create_index(
        "idx_ledger_accounts_owner",
        "ledger_accounts",
        ["owner"],
        unique=False,
        postgresql_where=sa.text("owner IS NOT NULL"),
    )


def _ledger_transactions() -> None:
    op.create_table(
        "ledger_transactions",
        sa.Column("tx_ref", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.PrimaryKeyConstraint("tx_ref", name=op.f("pk_ledger_transactions")),
    )


def _ledger_entries() -> None:
    op.create_table(
        "ledger_entries",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("tx_ref", sa.Text(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint("amount <> 0", name=op.f("ck_ledger_entries_amount")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_entries")),
    )
    op.create_index("idx_ledger_entries_account_id", "ledger_entries", ["account_id", "id"], unique=False)
    op.create_index("idx_ledger_entries_tx_ref", "ledger_entries", ["tx_ref"], unique=False)


def _transfers() -> None:
    op.create_table(
        "transfers",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("placed_by", sa.BigInteger(), nullable=True),
        sa.Column(
            "organization_id",
            sa.UUID(as_uuid=False),
            server_default="00000000-0000-7000-8000-000000000001",
            nullable=False,
        ),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint("amount > 0", name=op.f("ck_transfers_amount")),
        sa.CheckConstraint("kind IN ('DEPOSIT', 'WITHDRAWAL')", name=op.f("ck_transfers_kind")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
        sa.UniqueConstraint("customer_id", "kind", "reference", name=op.f("uq_transfers_customer_id_kind_reference")),
    )
    op.create_index("idx_transfers_customer_id", "transfers", ["customer_id", "id"], unique=False)


def _settlements() -> None:
    op.create_table(
        "settlements",
        sa.Column("trade_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.Column("notional", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("buyer_fee", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("seller_fee", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.PrimaryKeyConstraint("trade_id", name=op.f("pk_settlements")),
    )
