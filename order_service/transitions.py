"""How an order moves: the contract's table, and what repeated or late messages mean.

The messages are the processor's commands by name; `RequestCancel`, which the API's DELETE and the deactivation of a customer
say; and `Archive`, which the archiver says when a final order's time is over.
"""

from dataclasses import dataclass

from order_service.states import OrderStatus
from shared.contracts.orders import (
    OrderArchived,
    OrderCanceled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderEvent,
    OrderExpired,
    OrderMatched,
    OrderPartiallyMatched,
    OrderRejected,
)
from shared.statemachine import StateMachine

REQUEST_CANCEL = "RequestCancel"
ARCHIVE = "Archive"
MESSAGES = (
    "ConfirmOrder",
    "RejectOrder",
    "MarkOrderPartiallyMatched",
    "MarkOrderMatched",
    "MarkOrderCanceled",
    "MarkOrderExpired",
    REQUEST_CANCEL,
    ARCHIVE,
)


@dataclass(frozen=True, slots=True)
class Transition:
    """`path`: the states entered one after the other, each a row of the history; `event`: what is said of the last."""

    path: tuple[OrderStatus, ...]
    event: type[OrderEvent]

    @property
    def target(self) -> OrderStatus:
        return self.path[-1]


_S = OrderStatus
_CONFIRMED = Transition((_S.ORDER_CONFIRMED,), OrderConfirmed)
_RESERVED_AND_CONFIRMED = Transition((_S.ASSET_RESERVED, _S.ORDER_CONFIRMED), OrderConfirmed)
_REJECTED = Transition((_S.REJECTED,), OrderRejected)
_CANCEL_REQUESTED = Transition((_S.PENDING_CANCEL,), OrderCancelRequested)
_PARTIALLY_MATCHED = Transition((_S.PARTIALLY_MATCHED,), OrderPartiallyMatched)
_FILLED_WHILE_CANCELING = Transition((_S.PENDING_CANCEL,), OrderPartiallyMatched)
_MATCHED = Transition((_S.MATCHED,), OrderMatched)
_CANCELED = Transition((_S.CANCELED,), OrderCanceled)
_EXPIRED = Transition((_S.EXPIRED,), OrderExpired)
_ARCHIVED = Transition((_S.ARCHIVED,), OrderArchived)

ORDER_TRANSITIONS: dict[tuple[OrderStatus, str], Transition] = {
    (_S.PENDING_RESERVATION, "ConfirmOrder"): _RESERVED_AND_CONFIRMED,
    (_S.PENDING_RESERVATION, "RejectOrder"): _REJECTED,
    (_S.PENDING_RESERVATION, REQUEST_CANCEL): _CANCEL_REQUESTED,
    (_S.ASSET_RESERVED, "ConfirmOrder"): _CONFIRMED,
    (_S.ASSET_RESERVED, "RejectOrder"): _REJECTED,  # what was reserved is released by then
    (_S.ASSET_RESERVED, REQUEST_CANCEL): _CANCEL_REQUESTED,
    (_S.ORDER_CONFIRMED, "MarkOrderPartiallyMatched"): _PARTIALLY_MATCHED,
    (_S.ORDER_CONFIRMED, "MarkOrderMatched"): _MATCHED,
    (_S.ORDER_CONFIRMED, "MarkOrderExpired"): _EXPIRED,
    (_S.ORDER_CONFIRMED, REQUEST_CANCEL): _CANCEL_REQUESTED,
    (_S.PARTIALLY_MATCHED, "MarkOrderPartiallyMatched"): _PARTIALLY_MATCHED,
    (_S.PARTIALLY_MATCHED, "MarkOrderMatched"): _MATCHED,
    (_S.PARTIALLY_MATCHED, "MarkOrderExpired"): _EXPIRED,
    (_S.PARTIALLY_MATCHED, REQUEST_CANCEL): _CANCEL_REQUESTED,
    (_S.PENDING_CANCEL, "MarkOrderCanceled"): _CANCELED,
    (_S.PENDING_CANCEL, "MarkOrderMatched"): _MATCHED,  # the last fill won the race against the cancel
    (_S.PENDING_CANCEL, "MarkOrderPartiallyMatched"): _FILLED_WHILE_CANCELING,
    (_S.PENDING_CANCEL, "MarkOrderExpired"): _EXPIRED,
    (_S.PENDING_CANCEL, "RejectOrder"): _REJECTED,  # the reservation was refused before the cancel arrived
    (_S.MATCHED, ARCHIVE): _ARCHIVED,
    (_S.CANCELED, ARCHIVE): _ARCHIVED,
    (_S.EXPIRED, ARCHIVE): _ARCHIVED,
    (_S.REJECTED, ARCHIVE): _ARCHIVED,
}

ANSWERED_AGAIN: dict[tuple[OrderStatus, str], type[OrderEvent]] = {
    (_S.ORDER_CONFIRMED, "ConfirmOrder"): OrderConfirmed,
    (_S.REJECTED, "RejectOrder"): OrderRejected,
    (_S.MATCHED, "MarkOrderMatched"): OrderMatched,
    (_S.CANCELED, "MarkOrderCanceled"): OrderCanceled,
    (_S.EXPIRED, "MarkOrderExpired"): OrderExpired,
}
"""Repeated commands whose answer the processor may have missed: it alone is told again, so that nobody is notified and
nothing is audited twice. An archived order answers as what it was."""

_LATE = {
    # A cancel crossed the confirmation: the processor learns of it from OrderCancelRequested.
    (_S.PENDING_CANCEL, "ConfirmOrder"),
    (_S.PENDING_CANCEL, REQUEST_CANCEL),
    (_S.CANCELED, REQUEST_CANCEL),
    (_S.EXPIRED, REQUEST_CANCEL),
    # A confirmation sent again while its answer was on the way. By now the processor has seen that answer.
    (_S.PARTIALLY_MATCHED, "ConfirmOrder"),
    (_S.MATCHED, "ConfirmOrder"),
    (_S.CANCELED, "ConfirmOrder"),
    (_S.EXPIRED, "ConfirmOrder"),
    # Totals of an earlier fill; the last totals are in already.
    (_S.MATCHED, "MarkOrderPartiallyMatched"),
    (_S.CANCELED, "MarkOrderPartiallyMatched"),
    (_S.EXPIRED, "MarkOrderPartiallyMatched"),
}
_FILED_AWAY = {(_S.ARCHIVED, message) for message in MESSAGES if message != REQUEST_CANCEL}

ORDER_MACHINE: StateMachine[OrderStatus, Transition] = StateMachine(
    ORDER_TRANSITIONS,
    ignored=_LATE | _FILED_AWAY | ANSWERED_AGAIN.keys(),
    terminal={OrderStatus.ARCHIVED},
)
