"""Sagas, the matching queue, trades."""

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
    _saga_instances()
    _matching_queue()
    _trades()
    _instruments()


def _saga_instances() -> None:
    op.create_table(
        "saga_instances",
        sa.Column("saga_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("saga_type", sa.Text(), nullable=False),
        sa.Column("aggregate_id", sa.Text(), nullable=False),
        sa.Column("current_state", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("resume_state", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("step", sa.Integer(), server_default="1", nullable=False),
        sa.Column("retry_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("awaiting", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("awaiting_batch_id", sa.UUID(as_uuid=False), nullable=True),
        sa.Column("deadline_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint("aggregate_id = saga_id::text", name=op.f("ck_saga_instances_aggregate_id")),
        sa.CheckConstraint("awaiting = (deadline_at IS NOT NULL)", name=op.f("ck_saga_instances_awaiting")),
        sa.CheckConstraint(
            "CASE saga_type WHEN 'ORDER' THEN current_state IN ('RESERVING', 'CONFIRMING', 'REJECTING', "
            "'RESTING', 'CLOSING', 'RELEASING', 'CANCELING', 'EXPIRING', 'FINISHING', 'COMPLETED', "
            "'CANCELED', 'EXPIRED', 'REJECTED', 'NEEDS_HUMAN') ELSE current_state IN ('SETTLING', "
            "'SETTLED', 'BUSTED', 'NEEDS_HUMAN') END",
            name=op.f("ck_saga_instances_current_state"),
        ),
        sa.CheckConstraint("saga_type IN ('ORDER', 'TRADE')", name=op.f("ck_saga_instances_saga_type")),
        sa.PrimaryKeyConstraint("saga_id", name=op.f("pk_saga_instances")),
        postgresql_with={"fillfactor": "60"},
    )
    op.create_index(
        "idx_saga_instances_awaiting",
        "saga_instances",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("awaiting"),
    )


def _matching_queue() -> None:
    op.execute("CREATE SEQUENCE matching_queue_seq")
    op.create_table(
        "matching_queue",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("order_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column(
            "organization_id",
            sa.UUID(as_uuid=False),
            server_default="00000000-0000-7000-8000-000000000001",
            nullable=False,
        ),
        sa.Column("customer_id", sa.BigInteger(), nullable=False),
        sa.Column("beneficial_owner_id", sa.BigInteger(), nullable=False),
        sa.Column("customer_tier", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column("quote_asset", sa.Text(), nullable=False),
        sa.Column("order_side", sa.Text(), nullable=False),
        sa.Column("price", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("size", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("remaining_size", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("in_settlement_size", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("filled_size", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("filled_notional", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("fee_amount", sa.Numeric(precision=38, scale=18), server_default="0", nullable=False),
        sa.Column("bust_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("on_book", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("joined_seq", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.CheckConstraint("id = order_id", name=op.f("ck_matching_queue_order_id")),
        sa.CheckConstraint("order_side IN ('BUY', 'SELL')", name=op.f("ck_matching_queue_order_side")),
        sa.CheckConstraint(
            "remaining_size >= 0 AND in_settlement_size >= 0 AND filled_size >= 0", name=op.f("ck_matching_queue_sizes")
        ),
        sa.CheckConstraint(
            "remaining_size + in_settlement_size + filled_size = size", name=op.f("ck_matching_queue_sum_of_sizes")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_matching_queue")),
        postgresql_with={
            "fillfactor": "60",
            "autovacuum_vacuum_scale_factor": "0.02",
            "autovacuum_vacuum_threshold": "500",
        },
    )
    op.create_index(
        "idx_matching_queue_buys",
        "matching_queue",
        ["asset_name", "priority", sa.literal_column("price DESC"), "joined_seq"],
        unique=False,
        postgresql_where=sa.text("on_book AND order_side = 'BUY'"),
    )
    op.create_index(
        "idx_matching_queue_sells",
        "matching_queue",
        ["asset_name", "priority", "price", "joined_seq"],
        unique=False,
        postgresql_where=sa.text("on_book AND order_side = 'SELL'"),
    )


def _trades() -> None:
    op.create_table(
        "trades",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column(
            "organization_id",
            sa.UUID(as_uuid=False),
            server_default="00000000-0000-7000-8000-000000000001",
            nullable=False,
        ),
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column("quote_asset", sa.Text(), nullable=False),
        sa.Column("buy_order_id", sa.UUID(as_uuid=False), nullable=True),
        sa.Column("sell_order_id", sa.UUID(as_uuid=False), nullable=True),
        sa.Column("buyer_id", sa.BigInteger(), nullable=True),
        sa.Column("seller_id", sa.BigInteger(), nullable=True),
        sa.Column("size", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("price", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("buyer_fee", sa.Numeric(precision=38, scale=18), nullable=True),
        sa.Column("seller_fee", sa.Numeric(precision=38, scale=18), nullable=True),
        sa.Column("status", sa.Text(), server_default="SETTLING", nullable=False),
        sa.Column("bust_reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("brokage_now()"), nullable=False),
        sa.Column("settled_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("size > 0 AND price > 0", name=op.f("ck_trades_amounts")),
        sa.CheckConstraint("(buy_order_id IS NULL) = (buyer_id IS NULL)", name=op.f("ck_trades_buyer")),
        sa.CheckConstraint("(sell_order_id IS NULL) = (seller_id IS NULL)", name=op.f("ck_trades_seller")),
        sa.CheckConstraint("(status = 'SETTLED') = (settled_at IS NOT NULL)", name=op.f("ck_trades_settled")),
        sa.CheckConstraint("buy_order_id IS NOT NULL OR sell_order_id IS NOT NULL", name=op.f("ck_trades_sides")),
        sa.CheckConstraint("status IN ('SETTLING', 'SETTLED', 'BUSTED')", name=op.f("ck_trades_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trades")),
        postgresql_with={"fillfactor": "75"},
    )
    op.create_index("idx_trades_buy_order", "trades", ["buy_order_id"], unique=False)
    op.create_index("idx_trades_buyer", "trades", ["buyer_id", "id"], unique=False)
    op.create_index("idx_trades_sell_order", "trades", ["sell_order_id"], unique=False)
    op.create_index("idx_trades_seller", "trades", ["seller_id", "id"], unique=False)


def _instruments() -> None:
    op.create_table(
        "instruments",
        sa.Column("asset_name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("size_scale", sa.Integer(), nullable=False),
        sa.Column("price_scale", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("asset_name", name=op.f("pk_instruments")),
    )
