"""What a relay does with a broker that does not answer."""

from collections.abc import Sequence
from typing import Any

import msgspec
import redis

from shared.messaging.delivery import Acknowledgement, Batch, Delivery
from shared.messaging.outbox import Claim, QueueDepth
from shared.messaging.relay import Relay

CLAIMS = [Claim("tests", lane, [Batch(f"batch-{lane}", 1, msgspec.Raw(b"[]"))]) for lane in range(3)]


class Store:
    """Asks for the depth of each lane's queue, then claims all lanes."""

    def __init__(self) -> None:
        self.released: list[Claim] = []

    def step(self, acknowledgements: Sequence[Acknowledgement], queue_depth: QueueDepth) -> list[Claim]:
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
    relay = Relay("source", store, broker, listen_url="", sweep_seconds=1.0, linger_seconds=0.0)
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
