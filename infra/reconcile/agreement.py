"""Which states of an order, its reservation and its saga go together, and which histories an order can have. Pure.

Each service knows of an order what was last said to it, so the three may be one message apart. The table holds what may
stand while a saga awaits its answer or rests; any other combination lasts only as long as a message about the order is on
its way. Source: contract, Order states, and the saga's own table.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product

from order_service.states import CREATED, OrderStatus
from order_service.transitions import ORDER_TRANSITIONS

NONE = "NONE"
"""There is no reservation, or no saga."""

_WAITING = ("PENDING_RESERVATION",)
_OPEN = ("ORDER_CONFIRMED", "PARTIALLY_MATCHED")
_CANCEL = ("PENDING_CANCEL",)

_ROWS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    # saga, orders, reservations
    ("RESERVING", _WAITING, (NONE, "ACTIVE", "RELEASED")),  # a refusal is recorded as RELEASED
    ("CONFIRMING", (*_WAITING, "ASSET_RESERVED", "ORDER_CONFIRMED"), ("ACTIVE",)),
    ("REJECTING", (*_WAITING, *_CANCEL, "REJECTED"), ("RELEASED",)),
    ("RESTING", _OPEN, ("ACTIVE",)),
    ("CLOSING", _CANCEL, ("ACTIVE",)),
    ("LAPSING", (*_OPEN, *_CANCEL), ("ACTIVE",)),
    ("RELEASING", _CANCEL, (NONE, "ACTIVE", "RELEASED", "EXPIRED")),
    ("RELEASING", _OPEN, ("ACTIVE", "EXPIRED")),  # its time was over
    ("CANCELING", (*_CANCEL, "CANCELED"), ("RELEASED",)),
    ("EXPIRING", (*_OPEN, *_CANCEL, "EXPIRED"), ("EXPIRED", "RELEASED")),
    ("FINISHING", (*_OPEN, *_CANCEL, "MATCHED"), ("SETTLED",)),
    ("COMPLETED", ("MATCHED",), ("SETTLED",)),
    ("CANCELED", ("CANCELED",), ("RELEASED",)),
    ("EXPIRED", ("EXPIRED",), ("EXPIRED", "RELEASED")),  # RELEASED: there was nothing to release yet
    ("REJECTED", ("REJECTED",), ("RELEASED",)),
)
ALLOWED = frozenset(triple for saga, orders, reservations in _ROWS for triple in product(orders, reservations, (saga,)))
"""(order, reservation, saga); an archived order counts as what it was before."""
NEEDS_HUMAN = "NEEDS_HUMAN"
UNKNOWN_ORDER = "UNKNOWN_ORDER"
"""A saga that a repair has ended, because order_service was restored to a moment before its order."""
_LEFT_OF_UNKNOWN = frozenset({NONE, "RELEASED", "EXPIRED", "SETTLED"})

STEPS = frozenset(
    {(CREATED, OrderStatus.PENDING_RESERVATION.value)}
    | {
        (before.value, after.value)
        for (status, _), transition in ORDER_TRANSITIONS.items()
        for before, after in pairwise((status, *transition.path))
    }
)
"""Each status of a history and the one that may follow it."""


def disagreement(order: str | None, reservation: str | None, saga: str | None) -> str | None:
    """What does not go together. A saga that needs a person is named as such elsewhere, and may be at odds with anything."""
    if saga == NEEDS_HUMAN and order is not None:
        return None
    if order is None and saga == UNKNOWN_ORDER and (reservation or NONE) in _LEFT_OF_UNKNOWN:
        return None
    if order is None:
        return f"it does not exist, but has a reservation {reservation or NONE} and a saga {saga or NONE}"
    if (order, reservation or NONE, saga or NONE) in ALLOWED:
        return None
    return f"it is {order}, its reservation {reservation or NONE}, its saga {saga or NONE}"


def broken_path(status: str, version: int, history: Sequence[tuple[int, str]]) -> str | None:
    """What is wrong with an order's history, given as (seq, status) in order.

    Args:
        status, version: of the order as it is now.
    """
    if [seq for seq, _ in history] != list(range(1, len(history) + 1)):
        return "its history has gaps"
    if len(history) != version + 1:
        return f"its history has {len(history)} rows at version {version}"
    if history[0][1] != CREATED:
        return f"its history begins with {history[0][1]}"
    for (_, before), (_, after) in pairwise(history):
        if (before, after) not in STEPS:
            return f"its history goes from {before} to {after}"
    if history[-1][1] != status:
        return f"it is {status}, its history ends with {history[-1][1]}"
    return None
