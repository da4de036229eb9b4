"""The saga of an order, from its acceptance until it is final.

A condition becomes its own message before the table is asked: `OrderCancelRequested` of an order with unsettled trades is
`CancelRequestedWhileSettling`, the end of its time is `TimeOver` or `TimeOverWhileSettling`, a `TradeSettled` is `FillSettled`,
`LastFillSettled` or `LastOpenFillSettled`. So the table has no conditions, and the whole product of states and messages can be
walked. Source: contract, Order states.
"""

from enum import StrEnum

from processor.sagas.transition import Transition
from shared.statemachine import StateMachine


class OrderSagaState(StrEnum):
    RESERVING = "RESERVING"
    CONFIRMING = "CONFIRMING"
    REJECTING = "REJECTING"
    RESTING = "RESTING"
    """On the book. Awaits no answer, and needs no deadline; unsettled trades have sagas of their own."""
    CLOSING = "CLOSING"
    """Off the book, but trades of it are not settled yet: what they leave is released after the last of them."""
    LAPSING = "LAPSING"
    """As CLOSING, because its time was over and not because somebody canceled it."""
    RELEASING = "RELEASING"
    CANCELING = "CANCELING"
    EXPIRING = "EXPIRING"
    FINISHING = "FINISHING"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    NEEDS_HUMAN = "NEEDS_HUMAN"
    """Waits for a person, or for the answer after all: what arrives is decided by the state in which it was stuck."""


S = OrderSagaState
ENDED = frozenset({S.COMPLETED, S.CANCELED, S.EXPIRED, S.REJECTED})
RESTING = frozenset({S.RESTING, S.CLOSING, S.LAPSING})
"""States that await no answer of another service."""

_ROWS: dict[tuple[OrderSagaState, str], Transition[OrderSagaState]] = {
    (S.RESERVING, "AssetReserved"): Transition(S.CONFIRMING, ("ConfirmOrder",)),
    (S.RESERVING, "AssetReservationFailed"): Transition(S.REJECTING, ("RejectOrder",)),
    # The release overtakes nothing: it travels behind the reserve in the same lane.
    (S.RESERVING, "OrderCancelRequested"): Transition(S.RELEASING, ("ReleaseReservation",)),
    (S.CONFIRMING, "OrderConfirmed"): Transition(S.RESTING),
    (S.CONFIRMING, "OrderCancelRequested"): Transition(S.RELEASING, ("ReleaseReservation",)),
    (S.REJECTING, "OrderRejected"): Transition(S.REJECTED),
    (S.RESTING, "OrderCancelRequested"): Transition(S.RELEASING, ("ReleaseReservation",)),
    (S.RESTING, "CancelRequestedWhileSettling"): Transition(S.CLOSING),
    (S.RESTING, "TimeOver"): Transition(S.RELEASING, ("ReleaseReservation",)),
    (S.RESTING, "TimeOverWhileSettling"): Transition(S.LAPSING),
    (S.RESTING, "FillSettled"): Transition(S.RESTING, ("MarkOrderPartiallyMatched",)),
    (S.RESTING, "LastFillSettled"): Transition(S.FINISHING, ("MarkOrderMatched",)),
    (S.RESTING, "FillBusted"): Transition(S.RESTING),
    (S.RESTING, "FillBustedAgain"): Transition(S.NEEDS_HUMAN),
    (S.CLOSING, "FillSettled"): Transition(S.CLOSING, ("MarkOrderPartiallyMatched",)),
    (S.CLOSING, "LastFillSettled"): Transition(S.FINISHING, ("MarkOrderMatched",)),
    (S.CLOSING, "LastOpenFillSettled"): Transition(S.RELEASING, ("MarkOrderPartiallyMatched", "ReleaseReservation")),
    (S.CLOSING, "FillBusted"): Transition(S.CLOSING),
    (S.CLOSING, "FillBustedAgain"): Transition(S.CLOSING),
    (S.CLOSING, "LastOpenFillBusted"): Transition(S.RELEASING, ("ReleaseReservation",)),
    (S.LAPSING, "FillSettled"): Transition(S.LAPSING, ("MarkOrderPartiallyMatched",)),
    (S.LAPSING, "LastFillSettled"): Transition(S.FINISHING, ("MarkOrderMatched",)),
    (S.LAPSING, "LastOpenFillSettled"): Transition(S.RELEASING, ("MarkOrderPartiallyMatched", "ReleaseReservation")),
    (S.LAPSING, "FillBusted"): Transition(S.LAPSING),
    (S.LAPSING, "FillBustedAgain"): Transition(S.LAPSING),
    (S.LAPSING, "LastOpenFillBusted"): Transition(S.RELEASING, ("ReleaseReservation",)),
    (S.RELEASING, "AssetReleased"): Transition(S.CANCELING, ("MarkOrderCanceled",)),
    (S.RELEASING, "AssetReleasedOnExpiry"): Transition(S.EXPIRING, ("MarkOrderExpired",)),
    # The reservation was refused before the release arrived: there is nothing to cancel.
    (S.RELEASING, "AssetReservationFailed"): Transition(S.REJECTING, ("RejectOrder",)),
    (S.CANCELING, "OrderCanceled"): Transition(S.CANCELED),
    (S.EXPIRING, "OrderExpired"): Transition(S.EXPIRED),
    (S.FINISHING, "OrderMatched"): Transition(S.COMPLETED),
}

MESSAGES = (
    "OrderCreated",
    "AssetReserved",
    "AssetReservationFailed",
    "AssetReleased",
    "AssetReleasedOnExpiry",
    "OrderConfirmed",
    "OrderRejected",
    "OrderCancelRequested",
    "CancelRequestedWhileSettling",
    "TimeOver",
    "TimeOverWhileSettling",
    "OrderCanceled",
    "OrderExpired",
    "OrderMatched",
    "FillSettled",
    "LastFillSettled",
    "LastOpenFillSettled",
    "FillBusted",
    "FillBustedAgain",
    "LastOpenFillBusted",
)

_AFTER_RESERVING = frozenset(S) - {S.RESERVING, S.NEEDS_HUMAN}
_AFTER_CONFIRMING = _AFTER_RESERVING - {S.CONFIRMING}
_OFF_THE_BOOK = frozenset(
    {S.REJECTING, S.CLOSING, S.LAPSING, S.RELEASING, S.CANCELING, S.EXPIRING, S.FINISHING, *ENDED}
)

_IGNORED: set[tuple[OrderSagaState, str]] = {
    # Repeats of what has been answered already: commands are sent again when an answer is slow.
    *((state, "OrderCreated") for state in frozenset(S) - {S.NEEDS_HUMAN}),
    *((state, "AssetReserved") for state in _AFTER_RESERVING),
    *((state, "AssetReservationFailed") for state in _AFTER_RESERVING - {S.RELEASING}),
    *((state, "OrderConfirmed") for state in _AFTER_CONFIRMING),
    *((state, "OrderRejected") for state in (S.REJECTED,)),
    *((state, "OrderCanceled") for state in (S.CANCELED,)),
    *((state, "OrderExpired") for state in (S.EXPIRED,)),
    *((state, "OrderMatched") for state in (S.COMPLETED,)),
    *((state, "AssetReleased") for state in (S.REJECTING, S.REJECTED, S.CANCELING, S.CANCELED)),
    *((state, "AssetReleasedOnExpiry") for state in (S.REJECTING, S.REJECTED, S.EXPIRING, S.EXPIRED)),
    # A cancel that came too late: the order is rejected or full, or on its way out already. If that is because its time was over,
    # it ends EXPIRED whatever was asked for in between.
    *((state, "OrderCancelRequested") for state in _OFF_THE_BOOK),
    *((state, "CancelRequestedWhileSettling") for state in _OFF_THE_BOOK),
    *((state, "TimeOver") for state in _OFF_THE_BOOK),
    *((state, "TimeOverWhileSettling") for state in _OFF_THE_BOOK),
}

ORDER_SAGA = StateMachine(_ROWS, ignored=_IGNORED, terminal=ENDED)
