"""What a process refused because its seal was missing or wrong: to the log, and to the audit trail."""

import threading
import time
from collections import Counter
from collections.abc import Callable

import structlog

from shared.clock import utc_now
from shared.contracts.message import Message, contract_of
from shared.contracts.system import NOBODY_KNOWN, MessageRefused
from shared.db.engine import Database
from shared.db.unit_of_work import Context
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.logging import describe

log = structlog.get_logger(__name__)
_PAUSE_SECONDS = 60.0
_LOOK_SECONDS = 1.0

Record = Callable[[MessageRefused], object]
"""Puts it on record, or raises."""


class Refusals:
    """Counts what is refused, and tells it from a thread of its own: the first of a kind at once, what follows at most once a
    minute, with how many it were. So a flood fills neither log nor trail, and what is true does not wait for it.

    What could not be put on record stays counted and is tried again every second.
    """

    def __init__(self, name: str, *, pause_seconds: float = _PAUSE_SECONDS) -> None:
        self.name = f"{name} refusals"
        self._pause_seconds = pause_seconds
        self._records: dict[str, Record] = {}
        self._waiting: Counter[tuple[str, str]] = Counter()
        self._not_before: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()

    def tell(self, queue: str, record: Record) -> None:
        """What is refused of `queue` goes to `record`."""
        self._records[queue] = record

    def note(self, queue: str, kind: str) -> None:
        with self._lock:
            self._waiting[queue, kind] += 1
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Until `stop`; then what still waits is told, whether its minute is over or not."""
        while not stop.is_set():
            # Not for long: a `stop` wakes nobody up.
            self._wake.wait(_LOOK_SECONDS)
            self._wake.clear()
            self.tell_waiting(time.monotonic())
        self.tell_waiting(float("inf"))

    def tell_waiting(self, now: float) -> None:
        """Tell what may be told by `now`, a reading of the monotonic clock."""
        with self._lock:
            due = {
                key: count for key, count in self._waiting.items() if count and self._not_before.get(key, now) <= now
            }
        for (queue, kind), count in due.items():
            log.error("refused, for its seal is not ours", queue=queue, kind=kind, count=count)
            try:
                self._records[queue](MessageRefused(queue=queue, kind=kind, count=count))
            except Exception as error:  # noqa: BLE001 - whatever it was: it is tried again, and the log has it
                log.warning("refusal is not on record yet", queue=queue, error=describe(error))
                continue
            with self._lock:
                self._waiting[queue, kind] -= count
            self._not_before[queue, kind] = now + self._pause_seconds


def record_in_outbox(database: Database) -> Record:
    """For a service that has an outbox."""

    def record(refused: MessageRefused) -> None:
        database.run(lambda unit: unit.record(refused, aggregate_id=refused.queue), context=Context(actor=NOBODY_KNOWN))

    return record


def message_of(refused: MessageRefused) -> Message[MessageRefused]:
    """For one that has none."""
    known = contract_of(refused)
    return Message(
        event_id=new_id(),
        type=known.name,
        version=known.version,
        occurred_at=utc_now(),
        aggregate_type=known.aggregate_type,
        aggregate_id=refused.queue,
        organization_id=ROOT_ORGANIZATION_ID,
        actor=NOBODY_KNOWN,
        correlation_id=new_id(),
        payload=refused,
    )
