"""Orders whose time is over leave the book, decided where cancel and match are: on their row, under the instrument's lock."""

import msgspec
import structlog

from processor import repository
from processor.sagas.opening import Opening
from processor.service.advance import SagaBatch
from processor.settings import Settings
from shared.contracts.message import SYSTEM_ACTOR
from shared.db import Database, UnitOfWork
from shared.faults import fault

log = structlog.get_logger(__name__)
_AT_ONCE = 200
"""Orders in one transaction, which holds the locks of all their instruments: matching waits for it."""
_BATCHES_MAX = 50
_opening_decoder = msgspec.json.Decoder(Opening)


def expire_orders(database: Database, settings: Settings) -> int:
    """Take orders whose time is over off the book and release what is open of them; how many. What one call leaves, the next one
    takes."""
    total = 0
    for _ in range(_BATCHES_MAX):
        due, expired = database.run(lambda unit: _expire(unit, settings))
        total += expired
        if due < _AT_ONCE:
            break
    if total:
        log.info("orders expired", orders=total)
    return total


def _expire(unit: UnitOfWork, settings: Settings) -> tuple[int, int]:
    """How many were due, and how many of these left the book by this."""
    due = repository.due_orders(unit.connection, limit=_AT_ONCE)
    if not due:
        return 0, 0
    repository.lock_books(unit.connection, sorted({row["asset_name"] for row in due}))
    fault("expiry.locked")
    ids = [row["id"] for row in due]
    batch = SagaBatch(unit, settings.saga_answer_seconds)
    # Read under the lock: a fill or a cancel may have been first.
    batch.load_due(ids)
    openings = repository.load_openings(unit.connection, ids)
    expired = sum(batch.expire(id, _by_itself(openings[id])) for id in ids)
    batch.write()
    return len(due), expired


def _by_itself(opening: str) -> Opening:
    """What began the order's saga, to go on from: nobody asked for what follows."""
    return msgspec.structs.replace(_opening_decoder.decode(opening), actor=SYSTEM_ACTOR)
