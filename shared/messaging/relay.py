"""The relay of one outbox: outbox to broker, and acknowledgements back. It clocks itself: a lane's next message goes when the last
one was acknowledged, so backlog waits in the outbox, where the next claim makes one message of it."""

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Protocol

import psycopg
import redis
import structlog

from shared.db.engine import DatabaseUnavailable
from shared.faults import fault
from shared.logging import describe
from shared.messaging.broker import Broker
from shared.messaging.delivery import Acknowledgement, Delivery
from shared.messaging.outbox import NOTIFY_CHANNEL, Claim, QueueDepth

log = structlog.get_logger(__name__)
_SMALL_CLAIM = 20
_PAUSE_SECONDS = 1.0


class OutboxStore(Protocol):
    def step(self, acknowledgements: Sequence[Acknowledgement], queue_depth: QueueDepth) -> list[Claim]: ...

    def release(self, claims: Sequence[Claim]) -> None: ...


class Relay:
    """One source's relay: `step()` is the whole protocol, `run()` calls it whenever there may be something to do."""

    def __init__(
        self,
        source: str,
        store: OutboxStore,
        broker: Broker,
        *,
        listen_url: str,
        sweep_seconds: float,
        linger_seconds: float,
    ) -> None:
        self.name = f"{source} relay"
        self._source = source
        self._store = store
        self._broker = broker
        self._listen_url = listen_url
        self._sweep_seconds = sweep_seconds
        self._linger_seconds = linger_seconds
        self._wake = threading.Event()
        self._acknowledgements: list[Acknowledgement] = []
        self._lock = threading.Lock()
        self._broker_down_until = 0.0

    def step(self, acknowledgements: Sequence[Acknowledgement] = ()) -> int:
        """Record acknowledgements, claim, publish; how many events went out.

        The claim commits before the broker hears of it. A crash in between, or a broker that does not take the message, costs the
        lease: then the same batches go again.
        """
        fault("relay.before_claim")
        claims = self._store.step(acknowledgements, self._queue_depth)
        fault("relay.claimed")
        published = 0
        for number, claim in enumerate(claims):
            try:
                self._broker.publish(claim.destination, Delivery(self._source, claim.lane, claim.batches))
                fault("relay.published")
            except redis.RedisError as error:
                log.warning("broker refused", source=self._source, error=describe(error))
                self._broker_down_until = time.monotonic() + _PAUSE_SECONDS
                with contextlib.suppress(DatabaseUnavailable):
                    self._store.release(claims[number:])
                fault("relay.refused")
                break
            published += claim.events
        return published

    def _queue_depth(self, destination: str) -> int:
        # Asked in the claim's transaction, once per lane: a broker that does not answer is waited for once.
        if time.monotonic() < self._broker_down_until:
            return 0
        try:
            return self._broker.unread(destination)
        except redis.RedisError:
            self._broker_down_until = time.monotonic() + _PAUSE_SECONDS
            return 0

    def run(self, stop: threading.Event) -> None:
        """Until `stop`. Bells, NOTIFY and acknowledgements wake it; the sweep bounds how long it can sleep."""
        helpers = [
            threading.Thread(target=self._listen, args=(stop,), name=f"{self.name} listen", daemon=True),
            threading.Thread(target=self._take_acknowledgements, args=(stop,), name=f"{self.name} acks", daemon=True),
        ]
        for helper in helpers:
            helper.start()
        published = _SMALL_CLAIM
        while not stop.is_set():
            self._wake.wait(self._sweep_seconds)
            if time.monotonic() < self._broker_down_until:
                stop.wait(_PAUSE_SECONDS / 4)
                continue
            if published < _SMALL_CLAIM and self._linger_seconds:
                # The last message was small: a moment's wait lets a few more events travel in the next one.
                stop.wait(self._linger_seconds)
            self._wake.clear()
            with self._lock:
                acknowledgements, self._acknowledgements = self._acknowledgements, []
            try:
                published = self.step(acknowledgements)
            except DatabaseUnavailable:
                with self._lock:
                    self._acknowledgements[:0] = acknowledgements
                log.warning("database unavailable", source=self._source)
                stop.wait(_PAUSE_SECONDS)

    def _take_acknowledgements(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                taken = self._broker.take_acknowledgements(self._source, wait_seconds=1.0)
            except redis.RedisError:
                stop.wait(_PAUSE_SECONDS)
                continue
            if taken:
                fault("relay.acknowledgements_taken")
                with self._lock:
                    self._acknowledgements.extend(taken)
                self._wake.set()

    def _listen(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(self._listen_url, autocommit=True, connect_timeout=3) as connection:
                    connection.execute(f"LISTEN {NOTIFY_CHANNEL}")
                    self._wake.set()
                    while not stop.is_set():
                        for _ in connection.notifies(timeout=1.0, stop_after=1):
                            self._wake.set()
            except psycopg.Error:
                stop.wait(_PAUSE_SECONDS)
