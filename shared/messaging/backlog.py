"""How much a service has said that nobody has taken yet: measured in the background, refused above a limit, shown as metrics."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from prometheus_client import Gauge

from shared.db.engine import Database, DatabaseUnavailable
from shared.db.unit_of_work import Connection
from shared.errors import ServiceUnavailable
from shared.logging import describe
from shared.messaging.outbox import TELLING
from shared.settings import ServiceSettings

log = structlog.get_logger(__name__)
_RETRY_AFTER_SECONDS = 5
_COUNTED_MAX = 200_000
"""Batches counted at most per measurement, so that it stays cheap however much waits."""

waiting_events = Gauge(
    "brokage_outbox_waiting_events", "Events not acknowledged by their reader", ["service", "reader"]
)
parked_batches = Gauge("brokage_outbox_parked_batches", "Outbox batches that wait for a person", ["service"])
open_letters = Gauge("brokage_dead_letters_open", "Dead letters that wait for a person", ["service"])
refusing = Gauge("brokage_backlog_refusing", "1 while new work is refused because too much waits", ["service"])


class BacklogFull(ServiceUnavailable):
    """More work waits to be done than may wait, because what does it is down or too slow. Nothing was accepted. Repeat the call
    after `Retry-After` seconds, with the same key or `client_order_id`."""

    code = "backlog-full"
    title = "Too much work is waiting"


class Backlog:
    """One per service and API process. `refuse_when_full()` costs nothing: a thread measures every `backlog_poll_seconds`.

    Args:
        also: further numbers of the service to show, each as a gauge and how to count it.
    """

    def __init__(
        self,
        database: Database,
        service: str,
        settings: ServiceSettings,
        *,
        also: Mapping[Gauge, Callable[[Connection], int]] | None = None,
    ) -> None:
        self._database = database
        self._service = service
        self._events_max = settings.backlog_events_max
        self._seconds = settings.backlog_poll_seconds
        self._also = dict(also or {})
        self._readers: set[str] = set()
        self._full = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{service} backlog", daemon=True)
        self._thread.start()

    def refuse_when_full(self) -> None:
        """Raises BacklogFull while more events wait than may."""
        if self._full:
            raise BacklogFull(retry_after_seconds=_RETRY_AFTER_SECONDS)

    def close(self) -> None:
        self._stop.set()
        self._thread.join(self._seconds + 6.0)

    def measure(self) -> int:
        """Look once; how many events wait that move orders."""
        with self._database.read() as connection:
            rows = connection.execute(_WAITING, {"limit": _COUNTED_MAX}).fetchall()
            counts = {row["destination"]: int(row["events"]) for row in rows}
            others: Any = connection.execute(_FOR_A_PERSON).fetchone()
            for gauge, count in self._also.items():
                gauge.set(count(connection))
        for reader in self._readers - counts.keys():
            waiting_events.labels(self._service, reader).set(0)
        for reader, events in counts.items():
            waiting_events.labels(self._service, reader).set(events)
        self._readers |= counts.keys()
        parked_batches.labels(self._service).set(others["parked"])
        open_letters.labels(self._service).set(others["letters"])
        events = sum(events for reader, events in counts.items() if reader not in TELLING)
        self._judge(events)
        return events

    def _judge(self, events: int) -> None:
        # Once full, it opens again at nine tenths: not one in, one out.
        full = events >= (self._events_max * 9 // 10 if self._full else self._events_max)
        if full != self._full:
            log.warning("backlog", service=self._service, full=full, events=events, events_max=self._events_max)
        self._full = full
        refusing.labels(self._service).set(int(full))

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self.measure()
            except DatabaseUnavailable:
                continue  # who wants to write will find out himself
            except Exception as error:  # noqa: BLE001 - measuring must not end with one failure
                log.warning("backlog not measured", service=self._service, error=describe(error))


# By lane, along the index of what is not acknowledged.
_WAITING = """
    SELECT destination, sum(event_count) AS events
      FROM (SELECT destination, event_count FROM outbox_events WHERE acked_at IS NULL LIMIT %(limit)s) AS waiting
     GROUP BY destination
"""
_FOR_A_PERSON = """
    SELECT (SELECT count(*) FROM outbox_events WHERE parked) AS parked,
           (SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL) AS letters
"""
