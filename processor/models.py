"""Tables of `brokage_processor`."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from processor.sagas.order_saga import ENDED as ORDER_ENDED
from processor.sagas.order_saga import OrderSagaState
from processor.sagas.trade_saga import ENDED as TRADE_ENDED
from processor.sagas.trade_saga import TradeSagaState
from processor.states import SagaType, TradeStatus
from shared.db.base import AMOUNT, TIMESTAMP, UUID, created_at, new_metadata, one_of, updated_at, version
from shared.ids import ROOT_ORGANIZATION_ID

metadata = new_metadata()
_ENDED_NAMES = ", ".join(f"'{state}'" for state in sorted([*ORDER_ENDED, *TRADE_ENDED]))

saga_instances = sa.Table(
    "saga_instances",
    metadata,
    # The aggregate's own id: an order has one saga, and so has a trade.
    sa.Column("saga_id", UUID, primary_key=True),
    sa.Column("saga_type", sa.Text, nullable=False),
    sa.Column("aggregate_id", sa.Text, nullable=False),
    # What it remembers of the message that began it (sagas/opening.py). Before all that changes: the log of an update leaves out
    # the beginning of the row that is as it was.
    sa.Column("payload", postgresql.JSONB, nullable=False),
    # Where a NEEDS_HUMAN saga goes on when a person says so.
    sa.Column("resume_state", sa.Text),
    sa.Column("reason", sa.Text),
    # Its own column: an index whose predicate says `current_state` would be written at every step.
    sa.Column("needs_human", sa.Boolean, sa.Computed("current_state = 'NEEDS_HUMAN'", persisted=True)),
    sa.Column("step", sa.Integer, nullable=False, server_default="1"),
    sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"),
    version(),
    # Not ended. Its own column, because it changes once: with an index on what each step changes no update would be a HOT one.
    sa.Column("live", sa.Boolean, sa.Computed(f"current_state NOT IN ({_ENDED_NAMES})", persisted=True)),
    # Awaits another service's answer.
    sa.Column("awaiting", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("awaiting_batch_id", UUID),
    sa.Column("deadline_at", TIMESTAMP),
    created_at(),
    updated_at(),
    sa.Column("current_state", sa.Text, nullable=False),
    sa.CheckConstraint(one_of("saga_type", SagaType), name="saga_type"),
    sa.CheckConstraint("aggregate_id = saga_id::text", name="aggregate_id"),
    sa.CheckConstraint(
        f"CASE saga_type WHEN 'ORDER' THEN {one_of('current_state', OrderSagaState)}"
        f" ELSE {one_of('current_state', TradeSagaState)} END",
        name="current_state",
    ),
    sa.CheckConstraint("awaiting = (deadline_at IS NOT NULL)", name="awaiting"),
    sa.Index("idx_saga_instances_needs_human", "saga_id", postgresql_where=sa.text("needs_human")),
    sa.Index("idx_saga_instances_live", "saga_id", postgresql_where=sa.text("live")),
    postgresql_with={"fillfactor": "50"},
)

matching_queue = sa.Table(
    "matching_queue",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("order_id", UUID, nullable=False),
    sa.Column("organization_id", UUID, nullable=False, server_default=ROOT_ORGANIZATION_ID),
    sa.Column("customer_id", sa.BigInteger, nullable=False),
    sa.Column("beneficial_owner_id", sa.BigInteger, nullable=False),
    sa.Column("customer_tier", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("asset_name", sa.Text, nullable=False),
    sa.Column("quote_asset", sa.Text, nullable=False),
    sa.Column("order_side", sa.Text, nullable=False),
    sa.Column("price", AMOUNT, nullable=False),
    sa.Column("size", AMOUNT, nullable=False),
    sa.Column("remaining_size", AMOUNT, nullable=False),
    sa.Column("in_settlement_size", AMOUNT, nullable=False, server_default="0"),
    sa.Column("filled_size", AMOUNT, nullable=False, server_default="0"),
    sa.Column("filled_notional", AMOUNT, nullable=False, server_default="0"),
    sa.Column("fee_amount", AMOUNT, nullable=False, server_default="0"),
    sa.Column("bust_count", sa.Integer, nullable=False, server_default="0"),
    # Leaves the book once: full, asked to be canceled, expired, or given to a person.
    sa.Column("on_book", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("joined_seq", sa.BigInteger, sa.Sequence("matching_queue_seq", metadata=metadata), nullable=False),
    sa.Column("expires_at", TIMESTAMP),
    version(),
    created_at(),
    sa.CheckConstraint("id = order_id", name="order_id"),
    sa.CheckConstraint("order_side IN ('BUY', 'SELL')", name="order_side"),
    sa.CheckConstraint("remaining_size >= 0 AND in_settlement_size >= 0 AND filled_size >= 0", name="sizes"),
    sa.CheckConstraint("remaining_size + in_settlement_size + filled_size = size", name="sum_of_sizes"),
    # By price first, whatever the policy: a sweep reads what crosses and sorts that; what rests may be a million orders.
    sa.Index(
        "idx_matching_queue_sells",
        "asset_name",
        "price",
        "priority",
        "joined_seq",
        postgresql_where=sa.text("on_book AND order_side = 'SELL'"),
    ),
    sa.Index(
        "idx_matching_queue_buys",
        "asset_name",
        sa.text("price DESC"),
        "priority",
        "joined_seq",
        postgresql_where=sa.text("on_book AND order_side = 'BUY'"),
    ),
    sa.Index(
        "idx_matching_queue_expires_at",
        "expires_at",
        postgresql_where=sa.text("on_book AND expires_at IS NOT NULL"),
    ),
    postgresql_with={
        "fillfactor": "60",
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_vacuum_threshold": "500",
    },
)

trades = sa.Table(
    "trades",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("organization_id", UUID, nullable=False, server_default=ROOT_ORGANIZATION_ID),
    sa.Column("asset_name", sa.Text, nullable=False),
    sa.Column("quote_asset", sa.Text, nullable=False),
    # A side without an order is HOUSE.
    sa.Column("buy_order_id", UUID),
    sa.Column("sell_order_id", UUID),
    sa.Column("buyer_id", sa.BigInteger),
    sa.Column("seller_id", sa.BigInteger),
    sa.Column("size", AMOUNT, nullable=False),
    sa.Column("price", AMOUNT, nullable=False),
    sa.Column("buyer_fee", AMOUNT),
    sa.Column("seller_fee", AMOUNT),
    sa.Column("status", sa.Text, nullable=False, server_default=TradeStatus.SETTLING.value),
    sa.Column("bust_reason", sa.Text),
    created_at(),
    sa.Column("settled_at", TIMESTAMP),
    sa.CheckConstraint(one_of("status", TradeStatus), name="status"),
    sa.CheckConstraint("size > 0 AND price > 0", name="amounts"),
    sa.CheckConstraint("buy_order_id IS NOT NULL OR sell_order_id IS NOT NULL", name="sides"),
    sa.CheckConstraint("(buy_order_id IS NULL) = (buyer_id IS NULL)", name="buyer"),
    sa.CheckConstraint("(sell_order_id IS NULL) = (seller_id IS NULL)", name="seller"),
    sa.CheckConstraint("(status = 'SETTLED') = (settled_at IS NOT NULL)", name="settled"),
    sa.Index("idx_trades_buy_order", "buy_order_id"),
    sa.Index("idx_trades_sell_order", "sell_order_id"),
    sa.Index("idx_trades_buyer", "buyer_id", "id"),
    sa.Index("idx_trades_seller", "seller_id", "id"),
    postgresql_with={"fillfactor": "50"},
)

# What the processor must know of instruments: a projection of InstrumentChanged.
instruments = sa.Table(
    "instruments",
    metadata,
    sa.Column("asset_name", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("size_scale", sa.Integer, nullable=False),
    sa.Column("price_scale", sa.Integer, nullable=False),
)
