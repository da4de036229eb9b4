"""Tables of `brokage_orders`."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from order_service.states import CREATED, FINAL, OrderStatus, OrderType, TimeInForce
from shared.contracts.orders import OrderSide
from shared.db.base import AMOUNT, TIMESTAMP, UUID, created_at, new_metadata, one_of, updated_at, version
from shared.ids import ROOT_ORGANIZATION_ID

metadata = new_metadata()
_FINAL_NAMES = ", ".join(f"'{status}'" for status in sorted(FINAL))

orders = sa.Table(
    "orders",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("organization_id", UUID, nullable=False, server_default=ROOT_ORGANIZATION_ID),
    sa.Column("client_order_id", sa.Text),
    sa.Column("customer_id", sa.BigInteger, nullable=False),
    sa.Column("beneficial_owner_id", sa.BigInteger, nullable=False),
    sa.Column("placed_by", sa.BigInteger, nullable=False),
    sa.Column("placed_by_role", sa.Text, nullable=False),
    sa.Column("asset_name", sa.Text, nullable=False),
    sa.Column("quote_asset", sa.Text, nullable=False),
    sa.Column("quote_scale", sa.Integer, nullable=False),
    sa.Column("order_side", sa.Text, nullable=False),
    sa.Column("order_type", sa.Text, nullable=False),
    sa.Column("time_in_force", sa.Text, nullable=False),
    sa.Column("size", AMOUNT, nullable=False),
    sa.Column("price", AMOUNT, nullable=False),
    # Totals over all settled fills, as the processor says them.
    sa.Column("filled_size", AMOUNT, nullable=False, server_default="0"),
    sa.Column("filled_notional", AMOUNT, nullable=False, server_default="0"),
    sa.Column("fee_amount", AMOUNT, nullable=False, server_default="0"),
    # The tier's terms at the time of acceptance.
    sa.Column("tier", sa.Text, nullable=False),
    sa.Column("fee_rate", AMOUNT, nullable=False),
    sa.Column("fee_minimum", AMOUNT, nullable=False),
    sa.Column("status", sa.Text, nullable=False, server_default=OrderStatus.PENDING_RESERVATION.value),
    sa.Column("final_status", sa.Text),
    sa.Column("rejection_reason", sa.Text),
    # Counts the rows of the history after the first: the row of a version has `seq` = version + 1.
    version(),
    created_at(),
    updated_at(),
    sa.Column("expires_at", TIMESTAMP),
    sa.Column("closed_at", TIMESTAMP),
    sa.CheckConstraint(one_of("status", OrderStatus), name="status"),
    sa.CheckConstraint(one_of("order_side", OrderSide), name="order_side"),
    sa.CheckConstraint(one_of("order_type", OrderType), name="order_type"),
    sa.CheckConstraint(one_of("time_in_force", TimeInForce), name="time_in_force"),
    sa.CheckConstraint("(time_in_force = 'GTC') = (expires_at IS NULL)", name="expires_at"),
    sa.CheckConstraint("size > 0 AND price > 0 AND size * price < 1e18", name="terms"),
    sa.CheckConstraint("filled_size >= 0 AND filled_size <= size", name="filled_size"),
    sa.CheckConstraint("filled_notional >= 0 AND fee_amount >= 0", name="filled_notional"),
    sa.CheckConstraint("fee_rate >= 0 AND fee_minimum >= 0", name="fee_terms"),
    sa.CheckConstraint(
        "CASE WHEN status = 'ARCHIVED' THEN final_status IS NOT NULL "
        f"WHEN status IN ({_FINAL_NAMES}) THEN final_status IS NOT DISTINCT FROM status "
        "ELSE final_status IS NULL END",
        name="final_status",
    ),
    sa.CheckConstraint(f"final_status IN ({_FINAL_NAMES})", name="final_status_known"),
    sa.CheckConstraint("(closed_at IS NULL) = (final_status IS NULL)", name="closed_at"),
    sa.CheckConstraint(
        "final_status IS NULL OR (final_status = 'MATCHED') = (filled_size = size)", name="matched_is_filled"
    ),
    sa.CheckConstraint(
        "(final_status IS NOT DISTINCT FROM 'REJECTED') = (rejection_reason IS NOT NULL)", name="rejection_reason"
    ),
    sa.CheckConstraint("final_status IS DISTINCT FROM 'REJECTED' OR filled_size = 0", name="rejected_is_empty"),
    postgresql_with={
        # Room on the page for the next versions of a row: every step of the saga is then a HOT update.
        "fillfactor": "50",
        "autovacuum_vacuum_scale_factor": "0.02",
    },
)
sa.Index("idx_orders_customer_date", orders.c.customer_id, orders.c.created_at.desc(), orders.c.id.desc())
# `closed_at` changes once in a life; an index on `status` would be written at every step.
sa.Index("idx_orders_open", orders.c.customer_id, orders.c.id, postgresql_where=sa.text("closed_at IS NULL"))
# For the archiver. An order enters it once, with the step that takes it out of `idx_orders_open`.
sa.Index(
    "idx_orders_closed", orders.c.final_status, orders.c.closed_at, postgresql_where=sa.text("closed_at IS NOT NULL")
)

order_history = sa.Table(
    "order_history",
    metadata,
    # No foreign key: both rows are written by one statement, and the check would lock the order's row each time.
    sa.Column("order_id", UUID, primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    # The event that told of it, where one did.
    sa.Column("event_id", UUID),
    sa.Column("actor_id", sa.BigInteger),
    sa.Column("actor_role", sa.Text, nullable=False),
    sa.Column("detail", postgresql.JSONB),
    created_at(),
    sa.CheckConstraint(f"status = '{CREATED}' OR {one_of('status', OrderStatus)}", name="status"),
)

archived_orders = sa.Table(
    "archived_orders",
    metadata,
    # A partition for each month in which orders were archived. Rows never change; the archiver makes the partitions.
    *(sa.Column(column.name, column.type, nullable=column.nullable) for column in orders.columns),
    sa.Column("archived_at", TIMESTAMP, nullable=False),
    sa.PrimaryKeyConstraint("id", "archived_at"),
    sa.CheckConstraint("status = 'ARCHIVED' AND final_status IS NOT NULL", name="archived"),
    postgresql_partition_by="RANGE (archived_at)",
)
sa.Index(
    "idx_archived_orders_customer_date",
    archived_orders.c.customer_id,
    archived_orders.c.created_at.desc(),
    archived_orders.c.id.desc(),
)

archived_order_history = sa.Table(
    "archived_order_history",
    metadata,
    *(sa.Column(column.name, column.type, nullable=column.nullable) for column in order_history.columns),
    # That of the order: both go into partitions of the same month.
    sa.Column("archived_at", TIMESTAMP, nullable=False),
    sa.PrimaryKeyConstraint("order_id", "seq", "archived_at"),
    postgresql_partition_by="RANGE (archived_at)",
)

deleted_orders = sa.Table(
    "deleted_orders",
    metadata,
    # What is left of an order whose month of the archive was deleted: others still hold its saga, reservation and trades.
    sa.Column("order_id", UUID, primary_key=True),
    sa.Column("final_status", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("deleted_at", TIMESTAMP, nullable=False),
)

client_order_ids = sa.Table(
    "client_order_ids",
    metadata,
    # Outlives the order's archiving, so that a late repeat is still a repeat.
    sa.Column("customer_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("placed_by", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("client_order_id", sa.Text, primary_key=True),
    sa.Column("order_id", UUID, nullable=False),
    sa.Column("request_digest", sa.Text, nullable=False),
    created_at(),
)

instruments = sa.Table(
    "instruments",
    metadata,
    # A projection of asset_service's events, guarded by the instrument's version. Cash has no quote asset.
    sa.Column("asset_name", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("quote_asset", sa.Text),
    sa.Column("size_scale", sa.Integer, nullable=False),
    sa.Column("price_scale", sa.Integer, nullable=False),
    sa.Column("quote_scale", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
)
