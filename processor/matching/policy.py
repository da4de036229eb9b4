"""In which order the queue is served. Prices always have to cross, whatever the policy."""

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from processor.matching.book import QueuedOrder

SortKey: TypeAlias = Callable[[QueuedOrder], tuple[Decimal | int, ...]]


class Policy(StrEnum):
    TIER_PRICE_TIME = "tier-price-time"
    PRICE_TIER_TIME = "price-tier-time"
    PRICE_TIME = "price-time"


def sort_key(policy: Policy) -> SortKey:
    """Sorts one side of the book, the order to be served first in front."""
    return _KEYS[policy]


def _best_price(order: QueuedOrder) -> Decimal:
    return -order.price if order.is_buy else order.price


_KEYS: dict[Policy, SortKey] = {
    Policy.TIER_PRICE_TIME: lambda order: (order.priority, _best_price(order), order.joined_seq),
    Policy.PRICE_TIER_TIME: lambda order: (_best_price(order), order.priority, order.joined_seq),
    Policy.PRICE_TIME: lambda order: (_best_price(order), order.joined_seq),
}
