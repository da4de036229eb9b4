"""Orders, their history, client ids, the projection of instruments."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from shared.db import migrations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    migrations.create_common_tables_v1()
    _orders()
    _order_history()
    _client_order_ids()
    _instruments()
    migrations.append_only("order_history")


def _orders() -> None:
    op.create_table(
        "orders",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column(
            "organization_id",
            sa.UUID(as_uuid=False),
            server_default="00000000-0000-7000-8000-000000000001",
            nullable=False,
        ),
        sa.Column("client_order_id", sa.Text(), nullable=True),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("beneficial_owner_id", sa.BigInteger(), nullable=False),
        sa.Column("placed_by", sa.BigInteger(), nullable=False),
        sa.Column("placed_by_role", sa.Text(), nullable=False),
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column("quote_asset", sa.Text(), nullable=False),
        sa.Column("quote_scale", sa.Integer(), nullable=False),
        sa.Column("order_side", sa.Text(), nullable=False),
        sa.Column("order_type", sa.Text(), nullable=False),
        sa.Column("time_in_force", sa.Text(), nullable=False),
        sa.Column("size", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("price", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("filled_size", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("filled_notional", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("fee_amount", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("fee_rate", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("fee_minimum", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("status", sa.Text(), server_default="PENDING_RESERVATION", nullable=False),
        sa.Column("final_status", sa.Text(), nullable=True),
        sa.Column("rejection_reason", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("closed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(closed_at IS NULL) = (final_status IS NULL)", name=op.f("ck_orders_closed_at")),
        sa.CheckConstraint("fee_rate >= 0 AND fee_minimum >= 0", name=op.f("ck_orders_fee_terms")),
        sa.CheckConstraint("filled_notional >= 0 AND fee_amount >= 0", name=op.f("ck_orders_filled_notional")),
        sa.CheckConstraint("filled_size >= 0 AND filled_size <= size", name=op.f("ck_orders_filled_size")),
        sa.CheckConstraint(
            "CASE WHEN status = 'ARCHIVED' THEN final_status IS NOT NULL WHEN status IN ('CANCELED', "
            "'EXPIRED', 'MATCHED', 'REJECTED') THEN final_status IS NOT DISTINCT FROM status ELSE "
            "final_status IS NULL END",
            name=op.f("ck_orders_final_status"),
        ),
        sa.CheckConstraint(
            "final_status IN ('CANCELED', 'EXPIRED', 'MATCHED', 'REJECTED')", name=op.f("ck_orders_final_status_known")
        ),
        sa.CheckConstraint(
            "final_status IS NULL OR (final_status = 'MATCHED') = (filled_size = size)",
            name=op.f("ck_orders_matched_is_filled"),
        ),
        sa.CheckConstraint("order_side IN ('BUY', 'SELL')", name=op.f("ck_orders_order_side")),
        sa.CheckConstraint("order_type IN ('LIMIT')", name=op.f("ck_orders_order_type")),
        sa.CheckConstraint(
            "final_status IS DISTINCT FROM 'REJECTED' OR filled_size = 0", name=op.f("ck_orders_rejected_is_empty")
        ),
        sa.CheckConstraint(
            "(final_status IS NOT DISTINCT FROM 'REJECTED') = (rejection_reason IS NOT NULL)",
            name=op.f("ck_orders_rejection_reason"),
        ),
        sa.CheckConstraint(
            "status IN ('PENDING_RESERVATION', 'ASSET_RESERVED', 'ORDER_CONFIRMED', 'PARTIALLY_MATCHED', "
            "'PENDING_CANCEL', 'MATCHED', 'CANCELED', 'EXPIRED', 'REJECTED', 'ARCHIVED')",
            name=op.f("ck_orders_status"),
        ),
        sa.CheckConstraint("size > 0 AND price > 0 AND size * price < 1e18", name=op.f("ck_orders_terms")),
        sa.CheckConstraint("time_in_force IN ('GTC')", name=op.f("ck_orders_time_in_force")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        postgresql_with={"fillfactor": "50", "autovacuum_vacuum_scale_factor": "0.02"},
    )
    op.create_index(
        "idx_orders_customer_date",
        "orders",
        ["customer_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )
    op.create_index(
        "idx_orders_open", "orders", ["customer_id", "id"], unique=False, postgresql_where=sa.text("closed_at IS NULL")
    )


def _order_history() -> None:
    op.create_table(
        "order_history",
        sa.Column("order_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("event_id", sa.UUID(as_uuid=False), nullable=True),
        sa.Column("actor_id", sa.BigInteger(), nullable=True),
        sa.Column("actor_role", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint(
            "status = 'CREATED' OR status IN ('PENDING_RESERVATION', 'ASSET_RESERVED', 'ORDER_CONFIRMED', "
            "'PARTIALLY_MATCHED', 'PENDING_CANCEL', 'MATCHED', 'CANCELED', 'EXPIRED', 'REJECTED', "
            "'ARCHIVED')",
            name=op.f("ck_order_history_status"),
        ),
        sa.PrimaryKeyConstraint("order_id", "seq", name=op.f("pk_order_history")),
    )


def _client_order_ids() -> None:
    op.create_table(
        "client_order_ids",
        sa.Column("customer_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("placed_by", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("client_order_id", sa.Text(), nullable=False),
        sa.Column("order_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("request_digest", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.PrimaryKeyConstraint("customer_id", "placed_by", "client_order_id", name=op.f("pk_client_order_ids")),
    )


def _instruments() -> None:
    op.create_table(
        "instruments",
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("quote_asset", sa.Text(), nullable=True),
        sa.Column("size_scale", sa.Integer(), nullable=False),
        sa.Column("price_scale", sa.Integer(), nullable=False),
        sa.Column("quote_scale", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("asset_name", name=op.f("pk_instruments")),
    )
