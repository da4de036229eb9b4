"""What is said of an order to the other services."""

from typing import Any

from order_service.repository import Row
from shared import money
from shared.contracts.message import Message
from shared.contracts.orders import OrderEvent, OrderFilled, OrderRejected
from shared.db import UnitOfWork

_CHANGING = ("status", "rejection_reason")
_CHANGING_AMOUNTS = ("filled_size", "filled_notional", "fee_amount")


def common_fields(row: Row) -> dict[str, Any]:
    """What every event about an order says of it."""
    return {name: row[name] for name in ("asset_name", "quote_asset", "order_side", "size", "price", "filled_size")}


def record_change(
    uow: UnitOfWork, event: type[OrderEvent], before: Row | None, row: Row, cause: Message[Any] | None
) -> Message[Any]:
    """Say what became of an order. Without `before` it is an answer repeated to the processor, and to nobody else."""
    fields = common_fields(row)
    if issubclass(event, OrderFilled):
        average = money.average_price(row["filled_notional"], row["filled_size"], scale=row["quote_scale"])
        fields.update(filled_notional=row["filled_notional"], fee_amount=row["fee_amount"], average_price=average)
    if issubclass(event, OrderRejected):
        fields.update(rejection_reason=row["rejection_reason"])
    if before is not None:
        fields.update(before=_shown(before, row), after=_shown(row, before))
    return uow.record(
        event(**fields),
        aggregate_id=row["id"],
        aggregate_version=row["version"],
        customer_id=row["customer_id"],
        cause=cause,
        readers=("processor",) if before is None else None,
    )


def _shown(row: Row, other: Row) -> dict[str, Any]:
    """What of `row` differs from `other`, as JSON values."""
    shown = {name: row[name] for name in _CHANGING if row[name] != other[name]}
    shown.update({name: money.text(row[name]) for name in _CHANGING_AMOUNTS if row[name] != other[name]})
    return shown
