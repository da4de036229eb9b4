"""The relay of one outbox: outbox to broker, and acknowledgements back. It clocks itself: what is next in a lane goes when the last
of it was acknowledged, so backlog waits in the outbox, where the next claim makes one message of it."""

import contextlib
import threading
import time
from collections.abc import Collection, Sequence
from typing import Protocol

import redis
import structlog

from shared.db.engine import DatabaseUnavailable
from shared.db.listening import listen
from shared.faults import fault
from shared.logging import describe
from shared.messaging.broker import Broker
from shared.messaging.delivery import Acknowledgement, Delivery
from shared.messaging.outbox import NOTIFY_CHANNEL, Claim, QueueDepth
from shared.messaging.pace import Pace

log = structlog.get_logger(__name__)
_PAUSE_SECONDS = 1.0
_TAKING_SECONDS = 1.0


class OutboxStore(Protocol):
    def step(
        self, acknowledgements: Sequence[Acknowledgement], queue_depth: QueueDepth, left_out: Collection[str] = ()
    ) -> list[Claim]: ...

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
        pace: Pace,
    ) -> None:
        self.name = f"{source} relay"
        self._source = source
        self._store = store
        self._broker = broker
        self._listen_url = listen_url
        self._pace = pace
        self._acknowledgements: list[Acknowledgement] = []
        self._changed = threading.Condition()
        self._broker_down_until = 0.0

    def step(self, acknowledgements: Sequence[Acknowledgement] = (), left_out: Collection[str] = ()) -> int:
        """Record acknowledgements, claim for all readers but those `left_out`, publish; how many events went out.

        The claim commits before the broker hears of it. A crash in between, or a broker that does not take the message, costs the
        lease: then the same batches go again.
        """
        fault("relay.before_claim")
        claims = self._store.step(acknowledgements, self._queue_depth, left_out)
        fault("relay.claimed")
        published = 0
        for number, claim in enumerate(claims):
            try:
                self._broker.publish(claim.destination, Delivery(self._source, claim.batches))
                fault("relay.published")
            except redis.RedisError as error:
                log.warning("broker refused", source=self._source, error=describe(error))
                self._broker_down_until = time.monotonic() + _PAUSE_SECONDS
                with contextlib.suppress(DatabaseUnavailable):
                    self._store.release(claims[number:])
                fault("relay.refused")
                break
            self._pace.published(claim.destination, claim.events)
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
        """Until `stop`. NOTIFY and acknowledgements wake it; the sweep bounds how long it can sleep."""
        listening = (self._listen_url, NOTIFY_CHANNEL, self._rang, stop)
        threading.Thread(target=listen, args=listening, name=f"{self.name} listen", daemon=True).start()
        taking = threading.Thread(
            target=self._take_acknowledgements, args=(stop,), name=f"{self.name} acks", daemon=True
        )
        taking.start()
        while not stop.is_set():
            self._await_turn()
            if time.monotonic() < self._broker_down_until:
                stop.wait(_PAUSE_SECONDS / 4)
                continue
            with self._changed:
                acknowledgements, self._acknowledgements = self._acknowledgements, []
                left_out = self._pace.begin(time.monotonic())
            try:
                self.step(acknowledgements, left_out)
                self._pace.ended(time.monotonic())
            except DatabaseUnavailable:
                with self._changed:
                    self._acknowledgements[:0] = acknowledgements
                log.warning("database unavailable", source=self._source)
                stop.wait(_PAUSE_SECONDS)
        # What it has taken from the broker nobody else will hear of.
        taking.join(2 * _TAKING_SECONDS)
        if self._acknowledgements:
            with contextlib.suppress(DatabaseUnavailable):
                self.step(self._acknowledgements)

    def _await_turn(self) -> None:
        with self._changed:
            while (seconds := self._pace.due() - time.monotonic()) > 0:
                self._changed.wait(seconds)

    def _rang(self) -> None:
        with self._changed:
            self._pace.rang()
            self._changed.notify()

    def _take_acknowledgements(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                taken = self._broker.take_acknowledgements(self._source, wait_seconds=_TAKING_SECONDS)
            except redis.RedisError:
                stop.wait(_PAUSE_SECONDS)
                continue
            if taken:
                fault("relay.acknowledgements_taken")
                with self._changed:
                    self._acknowledgements.extend(taken)
                    self._pace.acknowledged(time.monotonic())
                    self._changed.notify()
