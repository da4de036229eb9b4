"""What processes refused of what lay in the broker, as the trail has it: a metric. One place has all of it, whichever process it
was and whatever became of that."""

import threading

from prometheus_client import Gauge

from auditor import documents
from shared.db.engine import DatabaseUnavailable
from shared.mongo import MongoDatabase

_SECONDS = 5.0

refused_messages = Gauge(
    "brokage_messages_refused",
    "Messages in the broker that nobody of ours had sealed, in the audit trail",
    ["queue", "kind"],
)


class RefusedMessages:
    """Counts them every few seconds, in a thread of its own, until it is closed."""

    def __init__(self, database: MongoDatabase, *, seconds: float = _SECONDS) -> None:
        self._database = database
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="auditor refusals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(self._seconds + 1.0)

    def measure(self) -> None:
        with self._database.reachable():
            for queue, kind, count in documents.count_refused(self._database):
                refused_messages.labels(queue, kind).set(count)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.measure()
            except DatabaseUnavailable:
                continue  # nobody can read the trail either
