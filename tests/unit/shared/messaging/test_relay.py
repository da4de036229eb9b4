"""What a relay does with a broker that does not answer, and for whom it steps when it runs."""

import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest
import redis

from shared.messaging.delivery import Acknowledgement, Batch, Delivery
from shared.messaging.outbox import Claim, QueueDepth
from shared.messaging.pace import Pace
from shared.messaging.relay import Relay

CLAIMS = [Claim("tests", [lane], [Batch(f"batch-{lane}", 1, msgspec.Raw(b"[]"))], 1) for lane in range(3)]


class Store:
    """Asks for the depth of each lane's queue, then claims all lanes."""

    def __init__(self) -> None:
        self.released: list[Claim] = []

    def step(
        self, acknowledgements: Sequence[Acknowledgement], queue_depth: QueueDepth, left_out: Collection[str] = ()
    ) -> list[Claim]:
        self.depths = [queue_depth(claim.destination) for claim in CLAIMS]
        return CLAIMS

    def release(self, claims: Sequence[Claim]) -> None:
        self.released.extend(claims)


class Broker:
    def __init__(self, *, takes: int) -> None:
        self.asked = 0
        self.published: list[Delivery] = []
        self._takes = takes

    def unread(self, destination: str) -> int:
        self.asked += 1
        raise redis.TimeoutError

    def publish(self, destination: str, delivery: Delivery) -> None:
        if len(self.published) == self._takes:
            raise redis.TimeoutError
        self.published.append(delivery)


def step(takes: int) -> tuple[Store, Broker, int]:
    store = Store()
    broker: Any = Broker(takes=takes)
    pace = Pace(sweep_seconds=1.0, linger_seconds=0.0, acknowledgement_seconds=0.0, telling_seconds=0.0)
    relay = Relay("source", store, broker, listen_url="", pace=pace)
    return store, broker, relay.step()


class TestStep:
    def test_a_broker_that_does_not_answer_is_asked_once(self) -> None:
        store, broker, _ = step(takes=0)
        assert broker.asked == 1
        assert store.depths == [0, 0, 0]

    def test_what_was_not_taken_is_released_and_nothing_else(self) -> None:
        store, broker, published = step(takes=1)
        assert published == len(broker.published) == 1
        assert store.released == CLAIMS[1:]

    def test_nothing_is_released_when_all_was_taken(self) -> None:
        store, _, published = step(takes=3)
        assert published == 3
        assert store.released == []


class TellingStore(Store):
    """Has something for the auditor in its first step; notes whom each step leaves out, and ends the third."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self.steps: list[Collection[str]] = []
        self._stop = stop

    def step(
        self, acknowledgements: Sequence[Acknowledgement], queue_depth: QueueDepth, left_out: Collection[str] = ()
    ) -> list[Claim]:
        self.steps.append(left_out)
        if len(self.steps) == 3:
            self._stop.set()
        return [Claim("auditor", [0], [Batch("batch", 1, msgspec.Raw(b"[]"))], 1)] if len(self.steps) == 1 else []


class AcknowledgingBroker(Broker):
    """Its consumers answer each message at once."""

    def take_acknowledgements(self, source: str, wait_seconds: float) -> list[Acknowledgement]:
        time.sleep(0.001)
        taken, self.published = self.published, []
        return [Acknowledgement(batch.id) for delivery in taken for batch in delivery.batches]


def test_who_was_just_told_is_left_out_until_his_step_comes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.messaging.relay.listen", lambda url, channel, ring, stop: None)
    stop = threading.Event()
    store, broker = TellingStore(stop), AcknowledgingBroker(takes=1)
    pace = Pace(sweep_seconds=60.0, linger_seconds=0.0, acknowledgement_seconds=0.0, telling_seconds=0.05)
    relay: Any = Relay("source", store, broker, listen_url="", pace=pace)  # type: ignore[arg-type]
    running = threading.Thread(target=relay.run, args=(stop,), daemon=True)
    running.start()
    running.join(10.0)
    assert store.steps == [[], ["auditor"], []]


class TestTheEnd:
    def test_what_was_taken_from_the_broker_is_still_recorded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody else will hear of it, and its lane would wait for the lease."""
        monkeypatch.setattr("shared.messaging.relay.listen", lambda *_: None)
        stop = threading.Event()
        recorded: list[Acknowledgement] = []

        class Recording(Store):
            def step(self, acknowledgements: Sequence[Acknowledgement], *_: Any) -> list[Claim]:
                recorded.extend(acknowledgements)
                return []

        class Late:
            def take_acknowledgements(self, source: str, wait_seconds: float) -> list[Acknowledgement]:
                stop.set()
                time.sleep(0.3)  # until the relay has seen that
                return [Acknowledgement("batch")]

        pace = Pace(sweep_seconds=0.01, linger_seconds=0.0, acknowledgement_seconds=0.0, telling_seconds=0.0)
        relay: Any = Relay("source", Recording(), Late(), listen_url="", pace=pace)  # type: ignore[arg-type]
        relay.run(stop)
        assert recorded == [Acknowledgement("batch")]
