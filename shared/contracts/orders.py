"""Events of order_service, and the commands it takes from the processor. The aggregate is the order."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from shared.contracts.message import Command, Event, contract

ORDER = "order"


class OrderSide(StrEnum):
    BUY = "BUY"
    SELL = "SELL"


class RejectionReason(StrEnum):
    INSUFFICIENT_BALANCE = "INSUFFICIENT_BALANCE"
    INSTRUMENT_HALTED = "INSTRUMENT_HALTED"
    INSTRUMENT_UNKNOWN = "INSTRUMENT_UNKNOWN"
    CUSTOMER_INACTIVE = "CUSTOMER_INACTIVE"


class OrderEvent(Event, frozen=True, kw_only=True):
    """What each event about an order says of it, so that a reader can tell people. Sizes in units of `asset_name`,
    `price` in `quote_asset` per unit."""

    asset_name: str
    quote_asset: str
    order_side: OrderSide
    size: Decimal
    price: Decimal
    filled_size: Decimal = Decimal(0)


@contract(ORDER, ("processor", "auditor"))
class OrderCreated(OrderEvent, frozen=True, kw_only=True):
    """Accepted and stored; starts the order's saga."""

    order_type: str
    time_in_force: str
    placed_by: int
    client_order_id: str | None = None
    tier: str
    tier_priority: int
    beneficial_owner_id: int
    fee_rate: Decimal
    fee_minimum: Decimal
    expires_at: datetime | None = None


@contract(ORDER, ("processor", "notifier", "auditor"))
class OrderConfirmed(OrderEvent, frozen=True, kw_only=True):
    pass


@contract(ORDER, ("processor", "notifier", "auditor"))
class OrderRejected(OrderEvent, frozen=True, kw_only=True):
    rejection_reason: str


@contract(ORDER, ("processor", "auditor"))
class OrderCancelRequested(OrderEvent, frozen=True, kw_only=True):
    pass


@contract(ORDER, ("processor", "notifier", "auditor"))
class OrderCanceled(OrderEvent, frozen=True, kw_only=True):
    pass


@contract(ORDER, ("processor", "notifier", "auditor"))
class OrderExpired(OrderEvent, frozen=True, kw_only=True):
    pass


class OrderFilled(OrderEvent, frozen=True, kw_only=True):
    """`average_price` is for people; `filled_notional` and `fee_amount` are exact, in `quote_asset`, over all fills so far."""

    filled_notional: Decimal
    fee_amount: Decimal
    average_price: Decimal


@contract(ORDER, ("processor", "notifier", "auditor"))
class OrderMatched(OrderFilled, frozen=True, kw_only=True):
    pass


@contract(ORDER, ("notifier", "auditor"))
class OrderPartiallyMatched(OrderFilled, frozen=True, kw_only=True):
    pass


@contract(ORDER, ("auditor",))
class OrderArchived(OrderEvent, frozen=True, kw_only=True):
    pass


@contract(ORDER, ("order_service",))
class ConfirmOrder(Command, frozen=True, kw_only=True):
    """The reservation stands: ASSET_RESERVED and ORDER_CONFIRMED in one step."""


@contract(ORDER, ("order_service",))
class RejectOrder(Command, frozen=True, kw_only=True):
    rejection_reason: str


class MarkOrderFilled(Command, frozen=True, kw_only=True):
    """Totals over all settled fills, not this fill's part: applying it twice, or late, changes nothing."""

    filled_size: Decimal
    filled_notional: Decimal
    fee_amount: Decimal


@contract(ORDER, ("order_service",))
class MarkOrderPartiallyMatched(MarkOrderFilled, frozen=True, kw_only=True):
    pass


@contract(ORDER, ("order_service",))
class MarkOrderMatched(MarkOrderFilled, frozen=True, kw_only=True):
    pass


@contract(ORDER, ("order_service",))
class MarkOrderCanceled(Command, frozen=True, kw_only=True):
    """Off the book, every fill settled, the rest released."""


@contract(ORDER, ("order_service",))
class MarkOrderExpired(Command, frozen=True, kw_only=True):
    """As MarkOrderCanceled, because its time was over."""
