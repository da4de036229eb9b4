"""A person lets a stuck saga go on."""

from processor import repository
from processor.errors import SagaNotStuck
from processor.sagas.order_saga import OrderSagaState
from processor.service.deadlines import resend
from processor.service.queue_entry import QueueEntry
from processor.settings import Settings
from shared.contracts.system import AdminActed
from shared.db import UnitOfWork
from shared.errors import NotFound


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


def _back_to_the_book(unit: UnitOfWork, order_id: str) -> None:
    rows = repository.load_queue(unit.connection, [order_id])
    if not rows:
        return
    repository.lock_books(unit.connection, [rows[0]["asset_name"]])
    entry = QueueEntry.from_row(repository.load_queue(unit.connection, [order_id])[0])
    entry.bust_count = 0
    entry.put_back()
    repository.update_queue(unit.connection, [entry.row()])
