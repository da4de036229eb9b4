"""The archive of final orders: partitions by month, and the one way out of the append-only history."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ORDER = """id, organization_id, client_order_id, customer_id, beneficial_owner_id, placed_by, placed_by_role, asset_name,
    quote_asset, quote_scale, order_side, order_type, time_in_force, size, price, filled_size, filled_notional, fee_amount,
    tier, fee_rate, fee_minimum, status, final_status, rejection_reason, version, created_at, updated_at, expires_at,
    closed_at"""
_STEP = "order_id, seq, status, event_id, actor_id, actor_role, detail, created_at"


def upgrade() -> None:
    op.create_index(
        "idx_orders_closed",
        "orders",
        ["final_status", "closed_at"],
        unique=False,
        postgresql_where=sa.text("closed_at IS NOT NULL"),
    )
    _archived_orders()
    _archived_order_history()
    _deleted_orders()
    for table in ("archived_orders", "archived_order_history"):
        op.execute(
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(f"CREATE VIEW all_orders AS SELECT {_ORDER} FROM orders UNION ALL SELECT {_ORDER} FROM archived_orders")
    op.execute(
        f"CREATE VIEW all_order_history AS SELECT {_STEP} FROM order_history "
        f"UNION ALL SELECT {_STEP} FROM archived_order_history"
    )
    _way_out_of_the_history()


def _way_out_of_the_history() -> None:
    """DELETE passes only in a transaction that says it archives, and only for rows that this transaction has put into the
    archive as they were."""
    op.execute("DROP TRIGGER order_history_append_only ON order_history")
    op.execute(
        "CREATE TRIGGER order_history_append_only BEFORE UPDATE OR TRUNCATE ON order_history "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        "CREATE TRIGGER order_history_kept BEFORE DELETE ON order_history FOR EACH STATEMENT "
        "WHEN (current_setting('brokage.archiving', true) IS DISTINCT FROM 'on') EXECUTE FUNCTION refuse_change()"
    )
    op.execute(
        """
        CREATE FUNCTION refuse_unarchived() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            this_transaction timestamptz := brokage_now();
        BEGIN
            IF EXISTS (
                SELECT order_id, seq, status, event_id, actor_id, actor_role, detail, created_at FROM gone
                EXCEPT
                SELECT order_id, seq, status, event_id, actor_id, actor_role, detail, created_at FROM archived_order_history
                 WHERE archived_at = this_transaction AND order_id IN (SELECT order_id FROM gone))
            THEN
                RAISE EXCEPTION '% is append-only: only what was archived goes', TG_TABLE_NAME
                      USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER order_history_archived AFTER DELETE ON order_history REFERENCING OLD TABLE AS gone "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_unarchived()"
    )


def _archived_orders() -> None:
    op.create_table(
        "archived_orders",
        sa.Column("id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("organization_id", sa.UUID(as_uuid=False), nullable=False),
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
        sa.Column("filled_size", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("filled_notional", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("fee_amount", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("fee_rate", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("fee_minimum", sa.Numeric(precision=38, scale=18), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("final_status", sa.Text(), nullable=True),
        sa.Column("rejection_reason", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("closed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("archived_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "status = 'ARCHIVED' AND final_status IS NOT NULL", name=op.f("ck_archived_orders_archived")
        ),
        sa.PrimaryKeyConstraint("id", "archived_at", name=op.f("pk_archived_orders")),
        postgresql_partition_by="RANGE (archived_at)",
    )
    op.create_index(
        "idx_archived_orders_customer_date",
        "archived_orders",
        ["customer_id", sa.literal_column("created_at DESC"), sa.literal_column("id DESC")],
        unique=False,
    )


def _archived_order_history() -> None:
    op.create_table(
        "archived_order_history",
        sa.Column("order_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("event_id", sa.UUID(as_uuid=False), nullable=True),
        sa.Column("actor_id", sa.BigInteger(), nullable=True),
        sa.Column("actor_role", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("archived_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("order_id", "seq", "archived_at", name=op.f("pk_archived_order_history")),
        postgresql_partition_by="RANGE (archived_at)",
    )


def _deleted_orders() -> None:
    op.create_table(
        "deleted_orders",
        sa.Column("order_id", sa.UUID(as_uuid=False), nullable=False),
        sa.Column("final_status", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_deleted_orders")),
    )
