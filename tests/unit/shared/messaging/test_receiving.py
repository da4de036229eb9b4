"""What a worker tells the source of a delivery that its reader could not take."""

from typing import Any

import msgspec
import pytest

from shared.messaging.delivery import Acknowledgement, Batch, Delivery, Outcome, encode_delivery
from shared.messaging.inbox import Unavailable
from shared.messaging.runtime import _receiver

DELIVERY = Delivery("source", [Batch("batch-1", 1, msgspec.Raw(b"[]")), Batch("batch-2", 3, msgspec.Raw(b"[]"))])


class Broker:
    def __init__(self) -> None:
        self.said: list[tuple[str, list[Acknowledgement]]] = []

    def acknowledge(self, source: str, acknowledgements: list[Acknowledgement]) -> None:
        self.said.append((source, acknowledgements))


class Consumer:
    def __init__(self, outage: Exception) -> None:
        self._outage = outage

    def let_others_go_first(self, delivery: Delivery) -> None: ...

    def receive(self, delivery: Delivery) -> list[Acknowledgement]:
        raise self._outage


@pytest.mark.parametrize(
    ("outage", "said"),
    [
        (
            Unavailable("tests"),
            [Acknowledgement("batch-1", Outcome.DEFERRED, 1), Acknowledgement("batch-2", Outcome.DEFERRED, 3)],
        ),
        # It does not get through though the store is there: that may be the event's own fault, and counts.
        (Unavailable("tests", stalled=True), None),
        (RuntimeError("a bug"), None),
    ],
    ids=["outage", "stalled", "bug"],
)
def test_an_outage_of_its_store_is_told(outage: Exception, said: list[Acknowledgement] | None) -> None:
    broker: Any = Broker()
    consumer: Any = Consumer(outage)
    _receiver(broker, consumer)(encode_delivery(DELIVERY))
    assert broker.said == ([] if said is None else [("source", said)])
