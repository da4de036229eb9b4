"""The commands a saga sends, by the names its table uses."""

from collections.abc import Callable
from typing import NamedTuple

from processor.matching.queue_entry import QueueEntry
from processor.sagas.opening import OrderTerms
from shared.contracts import Command
from shared.contracts.assets import ReleaseReservation, ReserveAsset
from shared.contracts.orders import (
    ConfirmOrder,
    MarkOrderCanceled,
    MarkOrderExpired,
    MarkOrderMatched,
    MarkOrderPartiallyMatched,
    RejectOrder,
)

CANCELED = "CANCELED"
EXPIRED = "EXPIRED"


class Facts(NamedTuple):
    """What a command may need to know; a command that needs what is missing is a bug."""

    order: OrderTerms | None = None
    reason: str | None = None
    entry: QueueEntry | None = None


def build(name: str, facts: Facts) -> Command:
    return _BUILDERS[name](facts)


def _reserve_asset(facts: Facts) -> Command:
    order = facts.order
    assert order is not None
    return ReserveAsset(
        asset_name=order.asset_name,
        quote_asset=order.quote_asset,
        order_side=order.order_side,
        size=order.size,
        price=order.price,
        fee_rate=order.fee_rate,
        fee_minimum=order.fee_minimum,
        expires_at=order.expires_at,
    )


def _reject_order(facts: Facts) -> Command:
    assert facts.reason is not None
    return RejectOrder(rejection_reason=facts.reason)


def _mark_matched(facts: Facts) -> Command:
    assert facts.entry is not None
    return MarkOrderMatched(**facts.entry.totals())


def _mark_partially_matched(facts: Facts) -> Command:
    assert facts.entry is not None
    return MarkOrderPartiallyMatched(**facts.entry.totals())


_BUILDERS: dict[str, Callable[[Facts], Command]] = {
    "ReserveAsset": _reserve_asset,
    "ConfirmOrder": lambda _: ConfirmOrder(),
    "RejectOrder": _reject_order,
    "ReleaseReservation": lambda facts: ReleaseReservation(reason=facts.reason or CANCELED),
    "MarkOrderMatched": _mark_matched,
    "MarkOrderPartiallyMatched": _mark_partially_matched,
    "MarkOrderCanceled": lambda _: MarkOrderCanceled(),
    "MarkOrderExpired": lambda _: MarkOrderExpired(),
}
