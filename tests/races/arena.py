"""Where contenders meet: rounds of a few to fifty threads that start at the same moment, on real databases, from a seed."""

import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count, cycle
from typing import Any, TypeVar
from unittest import mock

from asset_service.service.instruments import put_instrument
from asset_service.service.transfers import deposit
from infra.reconcile.check import Examined
from infra.reconcile.run import CHECKS
from infra.reconcile.settings import Settings
from infra.reconcile.stores import POSTGRES, Stores
from order_service.service.placing import Stored, place_orders
from processor.settings import Settings as ProcessorSettings
from shared.contracts.message import decode_messages
from shared.db import Database
from shared.errors import BrokageError
from shared.ids import new_id
from shared.messaging import outbox
from shared.messaging.delivery import Acknowledgement, Batch, Delivery
from shared.messaging.outbox import PostgresOutbox
from shared.messaging.runtime import Consumer
from shared.testing.pump import Pump
from tests.integration.reconcile.reconcile_world import new_order

T = TypeVar("T")
Contender = Callable[[], Any]

ROUNDS = int(os.environ.get("RACE_ROUNDS", "1000"))
SEED = int(os.environ.get("RACE_SEED", "7"))
CONTENDERS_MAX = 50
SHARES = ("AAPL", "GOOGL", "THYAO", "MSFT")
"""Several, because each has one lock for its book."""
_IN_FLIGHT_MAX = 64
_AT_ONCE = 200
_SIZES = ((2, 2, 0.78), (3, 4, 0.13), (5, 10, 0.07), (11, 25, 0.015), (CONTENDERS_MAX, CONTENDERS_MAX, 0.005))
"""From, to, and how often: most races in earnest are between two; the crowd shows what queues of waiters do."""


def crowds(rng: random.Random, rounds: int = ROUNDS) -> list[int]:
    """How many contenders each round has; the first has as many as there may be."""
    weights = [weight for _, _, weight in _SIZES]
    chosen = rng.choices(_SIZES, weights, k=rounds - 1)
    return [CONTENDERS_MAX, *(rng.randint(least, most) for least, most, _ in chosen)]


def race(rounds: Iterable[Sequence[Contender]], *, side_by_side: bool = True) -> list[list[Any]]:
    """What each contender of each round got: the result, or the refusal. The contenders of a round start together.

    Args:
        side_by_side: whether rounds that have nothing to do with each other may run at the same time.

    Raises:
        Whatever else a contender raised: only a refusal is an answer.
    """
    in_flight, room = [0], threading.Condition()
    results: list[list[Future[Any]]] = []

    def left(_: Future[Any]) -> None:
        with room:
            in_flight[0] -= 1
            room.notify()

    with ThreadPoolExecutor(_IN_FLIGHT_MAX) as pool:
        for contenders in rounds:
            with room:
                limit = _IN_FLIGHT_MAX - len(contenders) if side_by_side else 0
                room.wait_for(lambda limit=limit: in_flight[0] <= limit)
                in_flight[0] += len(contenders)
            barrier = threading.Barrier(len(contenders))
            futures = [pool.submit(_contend, barrier, contender) for contender in contenders]
            for future in futures:
                future.add_done_callback(left)
            results.append(futures)
        return [[future.result() for future in futures] for futures in results]


def _contend(barrier: threading.Barrier, contender: Contender) -> Any:
    barrier.wait()
    try:
        return contender()
    except BrokageError as refusal:
        return refusal


def won(results: Sequence[Any]) -> list[Any]:
    """The results of those who were not refused."""
    return [result for result in results if not isinstance(result, BrokageError)]


@dataclass
class Arena:
    """The four databases, and what prepares rounds by the hundred. Customers are numbers: nobody asks who they are."""

    environment: Mapping[str, str]
    databases: dict[str, Database]
    pump: Pump
    processor_settings: ProcessorSettings
    intrude: Callable[[str], Any]
    _customers: Iterator[int] = field(default_factory=lambda: count(1_000))

    # -- prepare ---------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        assets = self.databases["asset_service"]
        assets.run(lambda uow: put_instrument(uow, asset_name="TRY", quote_asset=None, size_scale=8))
        for name in SHARES:
            terms = {"asset_name": name, "quote_asset": "TRY", "size_scale": 6, "price_scale": 2}
            assets.run(lambda uow, terms=terms: put_instrument(uow, **terms))
        self.pump.drain()

    def customers(self, number: int, asset_name: str, amount: str) -> list[int]:
        """New ones who have so much of it."""
        ids = [next(self._customers) for _ in range(number)]

        def pay_in(uow: Any, part: Sequence[int]) -> None:
            for customer_id in part:
                terms = {"asset_name": asset_name, "amount": Decimal(amount), "reference": new_id()}
                deposit(uow, customer_id=customer_id, **terms)

        for part in _parts(ids):
            self.databases["asset_service"].run(lambda uow, part=part: pay_in(uow, part))
        return ids

    def orders(
        self,
        customer_ids: Sequence[int],
        side: str,
        size: str,
        price: str,
        *,
        shares: Sequence[str] = SHARES,
        moved: bool = True,
        **columns: Any,
    ) -> list[str]:
        """One order for each of them, of the shares in turn; with `moved` on the book."""
        names = cycle(shares)
        new = [new_order(customer, side, size, price, asset_name=next(names)) for customer in customer_ids]
        for order in new:
            order.row.update(columns)
        for part in _parts(new):
            outcomes = self.databases["order_service"].run(lambda uow, part=part: place_orders(uow, part))
            assert all(isinstance(outcome, Stored) for outcome in outcomes)
        if moved:
            self.pump.drain()
        return [order.claim.order_id for order in new]

    @contextmanager
    def single_messages(self) -> Iterator[None]:
        """What is said in here goes out in batches of one, so that each can be delivered by itself."""
        with mock.patch.object(outbox, "BATCH_EVENTS_MAX", 1):
            yield

    def waiting(self, source: str, destination: str) -> "Deliveries":
        """What `source` has to say to `destination`, to be delivered one by one."""
        return Deliveries(self.databases[source], source, destination, self.pump._consumers[destination])

    # -- look ------------------------------------------------------------------------------------------------------------

    def rows(self, service: str, query: str, **parameters: Any) -> list[dict[str, Any]]:
        with self.databases[service].read() as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def sql(self, service: str, statement: str, *parameters: Any) -> None:
        """As a superuser."""
        with self.intrude(service) as connection:
            connection.execute(statement.encode(), parameters)

    def reconcile(self) -> dict[int, Examined]:
        """Every invariant but what auditor and notifier are to know: they do not run here."""
        for service in POSTGRES:
            self.sql(service, "DELETE FROM outbox_events WHERE destination IN ('auditor', 'notifier')")
        found = {}
        with Stores(self.environment, Settings(grace_seconds=0.2, delivery_seconds=0.0)) as stores:
            for check in CHECKS:
                if check.number != 9:
                    found[check.number] = Examined(20)
                    check.run(stores, found[check.number])
        return found


class Deliveries:
    """The batches of one source for one destination, by the thing that they speak of; each is delivered as often as somebody
    likes, and acknowledged at the end."""

    def __init__(self, database: Database, source: str, destination: str, consumer: Consumer) -> None:
        self._outbox = PostgresOutbox(database, lease_seconds=60.0, events_max=100_000)
        self._source = source
        self._consumer = consumer
        self._acknowledgements: list[Acknowledgement] = []
        self._batches: dict[str, Batch] = {}
        for claim in self._outbox.step([], lambda destination: 0):
            if claim.destination == destination:
                for batch in claim.batches:
                    [message] = decode_messages(bytes(batch.events))
                    self._batches[message.aggregate_id] = batch

    def deliver(self, aggregate_id: str) -> None:
        delivery = Delivery(self._source, [self._batches[aggregate_id]])
        self._acknowledgements += self._consumer.receive(delivery)

    def end(self) -> None:
        self._outbox.step(self._acknowledgements, lambda destination: 0)


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
