"""The book of one instrument, as far as a sweep needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal


@dataclass(slots=True)
class QueuedOrder:
    """An order on the book. `priority`: of its tier, lower is served first. `joined_seq` grows with time."""

    order_id: str
    customer_id: int
    beneficial_owner_id: int
    is_buy: bool
    price: Decimal
    priority: int
    joined_seq: int
    remaining: Decimal


@dataclass(frozen=True, slots=True)
class Match:
    buy: QueuedOrder
    sell: QueuedOrder
    size: Decimal
    price: Decimal


def crosses(buy: QueuedOrder, sell: QueuedOrder) -> bool:
    """Whether two orders can trade: their prices meet, and they do not belong to the same owner."""
    return buy.price >= sell.price and buy.beneficial_owner_id != sell.beneficial_owner_id


def default_price(buy: QueuedOrder, sell: QueuedOrder) -> Decimal:
    """The limit of the order that joined the queue first."""
    return buy.price if buy.joined_seq < sell.joined_seq else sell.price


def sweep(buys: Sequence[QueuedOrder], sells: Sequence[QueuedOrder], *, limit: int) -> list[Match]:
    """Match both sides, each sorted by the policy, until nothing crosses or there are `limit` matches.

    Buyers are served in their order, each from the sellers in theirs. `remaining` of the orders is reduced.
    """
    matches: list[Match] = []
    waiting = [sell for sell in sells if sell.remaining > 0]
    for buy in buys:
        if len(matches) == limit:
            break
        if not waiting:
            break
        taken = False
        for sell in waiting:
            if buy.remaining == 0 or len(matches) == limit:
                break
            if not crosses(buy, sell):
                continue
            size = min(buy.remaining, sell.remaining)
            buy.remaining -= size
            sell.remaining -= size
            taken = taken or sell.remaining == 0
            matches.append(Match(buy, sell, size, default_price(buy, sell)))
        if taken:
            waiting = [sell for sell in waiting if sell.remaining > 0]
    return matches


def any_cross(buys: Sequence[QueuedOrder], sells: Sequence[QueuedOrder]) -> bool:
    """Whether a further sweep over these would find a match."""
    open_sells = [sell for sell in sells if sell.remaining > 0]
    return any(crosses(buy, sell) for buy in buys if buy.remaining > 0 for sell in open_sells)
