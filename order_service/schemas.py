"""HTTP bodies of order_service."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, StringConstraints

from order_service.repository import Row
from order_service.states import OrderStatus, OrderType, TimeInForce
from shared import json, money
from shared.contracts.orders import OrderSide
from shared.http.fields import AssetName, Body, CustomerId, DecimalText, PositiveDecimal, Timestamp, VisibleId

OrderId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
UtcTime = Annotated[datetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


class OrderCreate(Body):
    """`customer_id` may be left out by a customer, who orders for himself."""

    customer_id: CustomerId | None = None
    client_order_id: VisibleId | None = None
    asset_name: AssetName
    order_side: OrderSide
    order_type: OrderType
    size: PositiveDecimal
    price: PositiveDecimal
    time_in_force: TimeInForce
    expires_at: Timestamp | None = None


class OrderRead(BaseModel):
    """`average_price` and `fee_amount` are of all fills so far, in `quote_asset`."""

    id: str
    client_order_id: str | None
    customer_id: int
    placed_by: int
    asset_name: str
    quote_asset: str
    order_side: OrderSide
    order_type: OrderType
    time_in_force: TimeInForce
    size: DecimalText
    price: DecimalText
    filled_size: DecimalText
    remaining_size: DecimalText
    average_price: DecimalText | None
    fee_amount: DecimalText
    status: OrderStatus
    final_status: OrderStatus | None
    rejection_reason: str | None
    version: int
    created_at: UtcTime
    updated_at: UtcTime
    expires_at: UtcTime | None


class OrderHistoryRead(BaseModel):
    """One step in an order's life, and who caused it."""

    seq: int
    status: str
    event_id: str | None
    actor_id: int | None
    actor_role: str
    detail: dict[str, Any] | None
    created_at: UtcTime


def order_read(row: Row) -> OrderRead:
    return OrderRead.model_validate(_document(row))


def order_json(row: Row) -> bytes:
    """`order_read(row)` as it goes out, without the model: this is the busiest answer there is."""
    document = _document(row)
    return json.dumps({name: _WRITTEN[name](document[name]) if name in _WRITTEN else document[name] for name in _NAMES})


def _document(row: Row) -> Row:
    """The row with what is computed from it."""
    average_price = money.average_price(row["filled_notional"], row["filled_size"], scale=row["quote_scale"])
    return {**row, "remaining_size": row["size"] - row["filled_size"], "average_price": average_price}


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else money.text(amount)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC)


_NAMES = list(OrderRead.model_fields)
_WRITTEN: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("size", "price", "filled_size", "remaining_size", "average_price", "fee_amount"), _text),
    **dict.fromkeys(("created_at", "updated_at", "expires_at"), _utc),
}
