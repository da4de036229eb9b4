"""A small system in this process whose messengers misbehave when told to: what a broker, a kill or a neighbour may do."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import psycopg

from asset_service.service.instruments import put_instrument
from asset_service.service.transfers import deposit
from customer_service.service.customers import ensure_tier
from infra.faults import facts
from infra.faults.history import Attempt, Outcome, Request
from infra.faults.proof import violations
from infra.reconcile.settings import Settings
from infra.reconcile.stores import Stores
from infra.servers import DATABASES
from order_service.service.placing import Stored, place_orders
from processor.service import matching
from processor.service.deadlines import resend_overdue
from processor.tasks import handler
from shared import faults
from shared.db import Context
from shared.idempotency import IdempotentCall
from shared.ids import new_id
from shared.messaging.dead_letters import PostgresDeadLetters
from shared.messaging.delivery import Acknowledgement, Delivery
from shared.messaging.outbox import Claim
from shared.testing.pump import READERS, SOURCES, Pump
from tests.integration.reconcile.reconcile_world import FEE_MINIMUM, FEE_RATE, World, new_order

AT_REST = Settings(grace_seconds=0.15, delivery_seconds=0.0, overdue_seconds=60.0)
UNDER_WAY = Settings(grace_seconds=0.15, delivery_seconds=60.0, overdue_seconds=60.0)
"""For a scenario that ends with a reader away, so that messages still wait for it."""
_MEANWHILE_SECONDS = 0.3
_KEPT_TABLES = ("alembic_version", "clock_offset", "customer_tiers")


class Died(BaseException):
    """What a kill looks like from within: nothing after it runs, and open transactions roll back."""


class Messengers(Pump):
    """The pump, with the broker's bad habits.

    `twice`: each delivery comes again when it was acknowledged. `forgets`: destinations whose next message the broker loses.
    `away`: readers that do not run.
    """

    def __init__(self, environment: Mapping[str, str], readers: Sequence[str] = READERS) -> None:
        super().__init__(environment, readers)
        self.twice = False
        self.forgets: set[str] = set()
        self.away: set[str] = set()

    def reset(self) -> None:
        self.twice = False
        self.forgets.clear()
        self.away.clear()

    def move_from(self, source: str) -> None:
        """Deliver what one source has to say, and nothing else."""
        self._empty(source)

    def _deliver(self, source: str, claim: Claim) -> list[Acknowledgement]:
        if claim.destination in self.forgets:
            self.forgets.remove(claim.destination)
            return []
        consumer = self._consumers.get(claim.destination)
        if consumer is None or claim.destination in self.away:
            return []
        delivery = Delivery(source, claim.batches)
        try:
            acknowledgements = consumer.receive(delivery)
            return consumer.receive(delivery) if self.twice else acknowledgements
        except Died:
            return []


@dataclass
class Town(World):
    """A world whose `pump` is its messengers, in databases of its own.

    `settings` says which these are. `patience` is the checker's; `requests` is what callers asked and were answered, `mending`
    what must be put right after a test.
    """

    settings: Mapping[str, str] = field(kw_only=True)
    patience: Settings = AT_REST
    requests: list[Request] = field(default_factory=list)
    mending: list[Callable[[], None]] = field(default_factory=list)

    @property
    def environment(self) -> Mapping[str, str]:
        return self.settings

    def intrude(self, service: str) -> psycopg.Connection[Any]:
        assert self.servers.postgres is not None
        url = self.settings[DATABASES[service][1]]
        return self.servers.postgres.connect(urlsplit(url).path.removeprefix("/"))

    @property
    def messengers(self) -> Messengers:
        assert isinstance(self.pump, Messengers)
        return self.pump

    def open(self) -> None:
        """Empty every store, and define what is traded."""
        for service in SOURCES:
            self._empty(service)
        for store in ("auditor", "notifier"):
            with self.documents(store) as documents:
                for name in documents._database.list_collection_names():
                    documents[name].delete_many({})
        self.messengers.reset()
        self.patience = AT_REST
        self.requests = []
        tier = {"tier_name": "With fees", "priority": 1, "rate_limit": 1000, "monthly_fee": 0}
        customers = self.databases["customer_service"]
        ensure_tier(customers, tier_code="FEES", fee_rate=FEE_RATE, fee_minimum=FEE_MINIMUM, **tier)
        self.do("asset_service", lambda uow: put_instrument(uow, asset_name="TRY", quote_asset=None, size_scale=8))
        shares = {"quote_asset": "TRY", "size_scale": 6, "price_scale": 2}
        self.do("asset_service", lambda uow: put_instrument(uow, asset_name="AAPL", **shares))
        self.pump.drain()

    def _empty(self, service: str) -> None:
        with self.intrude(service) as connection, connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
            names = ", ".join(f'"{name}"' for (name,) in rows if name not in _KEPT_TABLES)
            connection.execute(f"TRUNCATE {names} CASCADE".encode())
            connection.execute("UPDATE clock_offset SET value = interval '0'")

    # -- what happens to messages ----------------------------------------------------------------------------------------

    def leases_run_out(self) -> None:
        """As they do by themselves after some seconds: then what is outstanding goes again."""
        self.expire_leases()
        self.pump.drain()

    def expire_leases(self) -> None:
        for service in SOURCES:
            self.sql(service, "UPDATE outbox_events SET lease_until = brokage_now() WHERE lease_until IS NOT NULL")

    def seconds_pass(self, seconds: int) -> None:
        for service in SOURCES:
            self.sql(service, f"UPDATE clock_offset SET value = interval '{seconds} seconds'")

    def resend_overdue(self) -> None:
        resend_overdue(self.databases["processor"], self.processor_settings)

    def a_person_requeues(self) -> None:
        """Every dead letter of the processor."""
        processor = self.databases["processor"]
        letters = PostgresDeadLetters(processor, consumer="processor", handler=handler(self.processor_settings))
        for letter in letters.list_open(after=None, limit=100):
            letters.requeue(letter["id"], Context())

    # -- what happens to processes ---------------------------------------------------------------------------------------

    @contextmanager
    def failing(self, point: str, error: BaseException, times: int = 1) -> Iterator[None]:
        """At a fault point, the first `times` times."""
        left = [times]

        def injector(reached: str) -> None:
            if reached == point and left[0]:
                left[0] -= 1
                raise error

        with faults.inject(injector):
            yield

    @contextmanager
    def meanwhile(self, target: object, name: str, work: Callable[[], object]) -> Iterator[None]:
        """Do `work` in a thread of its own right before the first call of `target.name`, which waits for it a moment: as long
        as it takes, unless it is made to wait itself."""
        original = getattr(target, name)
        threads: list[threading.Thread] = []

        def slow(*args: Any, **kwargs: Any) -> Any:
            if not threads:
                threads.append(threading.Thread(target=work))
                threads[0].start()
                threads[0].join(_MEANWHILE_SECONDS)
            return original(*args, **kwargs)

        with mock.patch.object(target, name, slow):
            yield
            for thread in threads:
                thread.join()

    @contextmanager
    def dying(self, target: object, name: str, *, after: bool) -> Iterator[None]:
        """The process dies right before, or after, its first call of `target.name`."""
        original = getattr(target, name)
        dead: list[bool] = []

        def deadly(*args: Any, **kwargs: Any) -> Any:
            if dead:
                return original(*args, **kwargs)
            dead.append(True)
            if after:
                original(*args, **kwargs)
            raise Died

        with mock.patch.object(target, name, deadly):
            yield

    # -- what callers do -------------------------------------------------------------------------------------------------

    def match_unmoved(self, order_id: str, size: str) -> list[str]:
        terms = {"price": None, "size": Decimal(size), "limit_only": False, "settings": self.processor_settings}
        trade_ids: list[str] = self.do("processor", lambda unit: matching.match_with_house(unit, order_id, **terms))
        return trade_ids

    def caller(self, cash: str) -> int:
        """A customer who remembers what he was paid in, as he does of all that he asks for."""
        customer_id = self.customer()
        body = {"customer_id": customer_id, "asset_name": "TRY", "amount": cash, "reference": new_id()}
        terms = {**body, "amount": Decimal(cash)}
        with self.asking("deposit", body["reference"], body) as attempt:
            attempt.answer = {"id": self.do("asset_service", lambda uow: deposit(uow, **terms)).resource_id}
        return customer_id

    def asked_order(self, customer_id: int, client_order_id: str, size: str) -> str:
        new = new_order(customer_id, "BUY", size, "10", client_order_id=client_order_id)
        body = {
            "asset_name": "AAPL",
            "order_side": "BUY",
            "size": size,
            "price": "10",
            "client_order_id": client_order_id,
        }
        with self.asking("place", client_order_id, {"customer_id": customer_id, **body}) as attempt:
            [outcome] = self.do("order_service", lambda uow: place_orders(uow, [new]))
            assert isinstance(outcome, Stored)
            attempt.answer = {"id": outcome.row["id"]}
        return str(outcome.row["id"])

    def asked_match(self, order_id: str, call: IdempotentCall) -> None:
        """Two of it, under a key."""
        terms = {"price": None, "size": Decimal(2), "limit_only": False, "settings": self.processor_settings}
        with self.asking("match", call.scope.key, {}) as attempt:
            answer = self.do(
                "processor",
                lambda unit: matching.once(unit, call, lambda: matching.match_with_house(unit, order_id, **terms)),
            )
            attempt.answer = {"trades": [{"id": id} for id in answer.resource_id.split(",")]}

    @contextmanager
    def asking(self, kind: str, key: str, body: dict[str, Any]) -> Iterator[Attempt]:
        """One attempt of a request, which its key makes the same as earlier ones. It is unknown unless it gets to the end."""
        known = [request for request in self.requests if request.key == key]
        if not known:
            known = [Request(len(self.requests) + 1, kind, "caller", 0, "POST", "", body, key, "body")]
            self.requests += known
        attempt = Attempt()
        known[0].attempts.append(attempt)
        yield attempt
        attempt.outcome = Outcome.OK

    def broken_promises(self) -> list[tuple[str, str]]:
        """What the fault run would say of the callers' history: the rule, and how it is broken."""
        if not self.requests:
            return []
        customers = {request.body["customer_id"] for request in self.requests if request.body}
        with Stores(self.environment, self.patience) as stores:
            found = facts.load(stores, customers, ("AAPL",))
        return [(violation.rule, violation.what) for violation in violations(self.requests, found, {})]
