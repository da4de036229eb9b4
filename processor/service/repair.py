"""A person lets a stuck saga go on, or ends what a restore has left over."""

from typing import Any

from processor import repository
from processor.errors import SagaNotStuck
from processor.sagas.opening import Opening
from processor.sagas.order_saga import ENDED, OrderSagaState
from processor.service.deadlines import resend
from processor.settings import Settings
from processor.states import SagaType
from shared.contracts.assets import ReleaseReservation
from shared.contracts.system import AdminActed
from shared.db import UnitOfWork
from shared.errors import NotFound
from shared.ids import new_id


def retry_saga(unit: UnitOfWork, saga_id: str, *, settings: Settings) -> None:
    """Put a NEEDS_HUMAN saga back to where it was stuck, and send again what it awaits.

    An order whose trades were busted returns to the book with a clean count.

    Raises:
        NotFound: there is no such saga. SagaNotStuck: it goes on by itself.
    """
    saga = repository.find_saga(unit.connection, saga_id, lock=True)
    if saga is None:
        raise NotFound()
    if saga["current_state"] != OrderSagaState.NEEDS_HUMAN:
        raise SagaNotStuck(saga_id=saga_id)
    state = saga["resume_state"]
    resting = state == OrderSagaState.RESTING
    repository.update_sagas(
        unit.connection,
        [
            {
                "saga_id": saga_id,
                "version": saga["version"],
                "steps": 1,
                "current_state": state,
                "reason": saga["reason"],
                "awaiting": not resting,
                "deadline_at": None if resting else unit.now,
            }
        ],
    )
    if resting:
        _back_to_the_book(unit, saga_id)
    else:
        row = {**saga, "current_state": state, "version": saga["version"] + 1, "payload": saga["payload_text"]}
        resend(unit, [row], answer_seconds=settings.saga_answer_seconds)
    unit.record(AdminActed(action="retry_saga", subject={"saga_id": saga_id, "state": state}), aggregate_id=saga_id)


UNKNOWN_ORDER = "UNKNOWN_ORDER"
"""The reason of a saga that ended because order_service does not know its order."""


def end_saga_of_unknown_order(unit: UnitOfWork, order_id: str, customer_id: int) -> bool:
    """End what is known here of an order that order_service, restored to an earlier moment, does not know: it leaves the book, its
    saga ends as CANCELED and what is reserved for it is released. The answer to the release is late, and ignored.

    Returns:
        False if trades of it are not settled yet: then nothing was done, and it may be tried again.
    """
    queue = repository.load_queue(unit.connection, [order_id])
    if queue:
        repository.lock_books(unit.connection, [queue[0]["asset_name"]])
        queue = repository.load_queue(unit.connection, [order_id])
    if any(row["in_settlement_size"] > 0 for row in queue):
        return False
    saga = repository.find_saga(unit.connection, order_id, lock=True)
    if saga is None:
        saga = _tombstone(unit, order_id, customer_id)
    ended = saga["current_state"] in ENDED
    repository.update_sagas(
        unit.connection,
        [
            {
                "saga_id": order_id,
                "version": saga["version"],
                "steps": 0 if ended else 1,
                "current_state": saga["current_state"] if ended else OrderSagaState.CANCELED,
                "reason": UNKNOWN_ORDER,
                "awaiting": False,
            }
        ],
    )
    repository.leave_queue(unit.connection, [order_id])
    unit.record(
        ReleaseReservation(reason=UNKNOWN_ORDER),
        aggregate_id=order_id,
        aggregate_version=saga["version"] + 1,
        customer_id=customer_id,
    )
    unit.record(AdminActed(action="end_unknown_order", subject={"order_id": order_id}), aggregate_id=order_id)
    return True


def _tombstone(unit: UnitOfWork, order_id: str, customer_id: int) -> dict[str, Any]:
    """A saga for a reservation that has none, so that the release has somebody to answer to."""
    opening = Opening(event_id=new_id(), correlation_id=unit.context.correlation_id, customer_id=customer_id)
    row = {"saga_id": order_id, "saga_type": SagaType.ORDER, "current_state": OrderSagaState.CANCELED}
    repository.insert_sagas(unit.connection, [{**row, "payload": opening, "deadline_at": unit.now}])
    found = repository.find_saga(unit.connection, order_id, lock=True)
    assert found is not None
    return found


def _back_to_the_book(unit: UnitOfWork, order_id: str) -> None:
    rows = repository.load_queue(unit.connection, [order_id])
    if not rows:
        return
    repository.lock_books(unit.connection, [rows[0]["asset_name"]])
    entry = repository.load_entries(unit.connection, [order_id])[order_id]
    entry.bust_count = 0
    entry.put_back()
    repository.update_queue(unit.connection, [entry])
