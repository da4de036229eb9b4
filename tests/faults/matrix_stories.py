"""What happens in the cells: small stories of clients and processes, each of which comes by some of the fault points.

A story can be told again from its beginning: its requests carry keys, as those of a client who lost the answers do. `prepare` is
done before the fault; all it leaves is in `Facts`, which another process can be given.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import redis
from pymongo.errors import DuplicateKeyError

from asset_service import tasks as asset_tasks
from asset_service.service import transfers
from asset_service.service.instruments import put_instrument
from auditor import documents as audit_documents
from auditor.records import content_from_read
from customer_service.service.customers import Registration, ensure_customer, ensure_tier, update_customer
from order_service.group_commit import Failure, commit_in_parts
from order_service.service.canceling import cancel_order
from order_service.service.placing import Claim, NewOrder, Stored, place_orders
from processor.service import matching
from processor.settings import Settings as ProcessorSettings
from shared.clock import utc_now
from shared.db import Context, UnitOfWork
from shared.encryption import FieldKeys
from shared.faults import inject
from shared.http.telemetry import STREAM, RequestRecord
from shared.idempotency import IdempotentCall, KeyScope, Replay
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.messaging import seal
from shared.messaging.dead_letters import PostgresDeadLetters
from shared.mongo import MongoDatabase
from tests.faults.matrix_system import Death, Machine, System, die_with

ASSET, CASH = "AAPL", "TRY"
CUSTOMERS_AT_ONCE = 60


@dataclass
class Facts:
    """Of one cell: who plays, and the keys of what they ask for."""

    customers: list[int]
    key: str = field(default_factory=new_id)
    first_life: bool = True


@dataclass(frozen=True)
class Story:
    """`tell` is what clients do, in a system that comes to rest in between."""

    tell: Callable[[System, Facts], None]
    prepare: Callable[[System, Facts], None] = lambda system, facts: None
    timers: tuple[str, ...] = ()
    mail: bool = False


# -- clients -------------------------------------------------------------------------------------------------------------


def call(facts: Facts, what: str) -> IdempotentCall:
    return IdempotentCall(KeyScope(str(facts.customers[0]), "POST", f"/{what}", f"{what}-{facts.key}"), what)


def keyed(system: System, service: str, name: str, call: IdempotentCall, work: Callable[[UnitOfWork], Replay]) -> str:
    """A request with an Idempotency-Key, as the endpoints take it: mark, transaction, answer."""

    def at(machine: Machine) -> str:
        known = machine.marks.begin(call)
        if known is not None:
            return known.resource_id
        with machine.marks.held(call) as outcome:
            outcome.replay = machine.databases[service].run(work)
        return outcome.replay.resource_id

    answer: str = system.request(name, at)
    return answer


def place(
    system: System, facts: Facts, who: int, *orders: tuple[str, str, str, str], expires: bool = False
) -> list[str]:
    """Orders (client id, side, size, price) of one customer in one transaction; their ids."""

    def at(machine: Machine) -> list[str]:
        new = [_order(facts, facts.customers[who], *terms, expires=expires) for terms in orders]
        outcomes = commit_in_parts(
            lambda items: machine.databases["order_service"].run(lambda uow: place_orders(uow, items)), new
        )
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                raise outcome.error
        return [str(outcome.row["id"]) for outcome in outcomes if isinstance(outcome, Stored)]

    ids: list[str] = system.request("place", at)
    assert len(ids) == len(orders)
    return ids


def _order(facts: Facts, customer_id: int, name: str, side: str, size: str, price: str, *, expires: bool) -> NewOrder:
    client_order_id = f"{name}-{facts.key}"
    row = {
        "id": new_id(),
        "organization_id": ROOT_ORGANIZATION_ID,
        "client_order_id": client_order_id,
        "customer_id": customer_id,
        "beneficial_owner_id": customer_id,
        "placed_by": customer_id,
        "placed_by_role": "CUSTOMER",
        "asset_name": ASSET,
        "quote_asset": CASH,
        "quote_scale": 8,
        "order_side": side,
        "order_type": "LIMIT",
        "time_in_force": "GTD" if expires else "GTC",
        "size": Decimal(size),
        "price": Decimal(price),
        "tier": "FEES",
        "fee_rate": Decimal("0.001"),
        "fee_minimum": Decimal("0.05"),
        "status": "PENDING_RESERVATION",
        "expires_at": utc_now() + timedelta(milliseconds=1) if expires else None,
    }
    claim = Claim(row["id"], None, (customer_id, customer_id, client_order_id), f"{side} {size} {price}")
    return NewOrder(row, 1, claim, Context())


def cancel(system: System, order_id: str) -> None:
    system.request("cancel", lambda m: m.databases["order_service"].run(lambda uow: cancel_order(uow, order_id)))


def cross(system: System, facts: Facts, what: str, buy: str, sell: str, size: str | None = None) -> None:
    terms = {"price": None, "size": Decimal(size) if size else None, "settings": _settings(system)}
    asked = call(facts, what)
    keyed(
        system,
        "processor",
        "match",
        asked,
        lambda uow: matching.once(uow, asked, lambda: matching.cross(uow, buy, sell, **terms)),
    )


def match(system: System, facts: Facts, what: str, order_id: str, size: str | None = None) -> None:
    terms = {"price": None, "size": Decimal(size) if size else None, "limit_only": False, "settings": _settings(system)}
    asked = call(facts, what)
    keyed(
        system,
        "processor",
        "match",
        asked,
        lambda uow: matching.once(uow, asked, lambda: matching.match_with_house(uow, order_id, **terms)),
    )


def _settings(system: System) -> ProcessorSettings:
    return ProcessorSettings(processor_database_url=system.environment["BROKAGE_PROCESSOR_DATABASE_URL"])


# -- stories -------------------------------------------------------------------------------------------------------------


def transferred(system: System, facts: Facts) -> None:
    terms = {"customer_id": facts.customers[0], "asset_name": CASH, "reference": facts.key}
    for kind, amount in ((transfers.deposit, "100"), (transfers.withdraw, "40.5")):
        asked = call(facts, kind.__name__)
        keyed(
            system,
            "asset_service",
            kind.__name__,
            asked,
            lambda uow, kind=kind, amount=amount, asked=asked: kind(uow, amount=Decimal(amount), call=asked, **terms),
        )
        system.drain()


def traded(system: System, facts: Facts) -> None:
    [buy] = place(system, facts, 0, ("buy", "BUY", "10", "20"))
    [sell] = place(system, facts, 1, ("sell", "SELL", "6", "19"))
    system.drain()
    cross(system, facts, "first", buy, sell, "4")
    system.drain()
    cross(system, facts, "second", buy, sell)
    system.drain()
    match(system, facts, "third", buy)
    system.drain()


def placed(system: System, facts: Facts) -> None:
    place(system, facts, 0, ("placed", "BUY", "5", "10"))
    system.drain()


def canceled(system: System, facts: Facts) -> None:
    [order] = place(system, facts, 0, ("canceled", "BUY", "5", "10"))
    system.drain()
    cancel(system, order)
    system.drain()


def canceled_while_settling(system: System, facts: Facts) -> None:
    [order] = place(system, facts, 0, ("closing", "BUY", "10", "20"))
    system.drain()
    match(system, facts, "closing", order, "4")
    cancel(system, order)
    system.drain()


def rejected(system: System, facts: Facts) -> None:
    place(system, facts, 0, ("rejected", "BUY", "1000000", "10"))
    system.drain()


def expired(system: System, facts: Facts) -> None:
    [order] = place(system, facts, 0, ("expired", "SELL", "3", "10"), expires=True)
    ended = "SELECT 1 FROM orders WHERE id = %(order)s::uuid AND status = 'EXPIRED'"
    system.drain(rested=lambda: bool(rows(system, "order_service", ended, order=order)))


def busted(system: System, facts: Facts) -> None:
    """asset_service refuses to settle, because in its books the order has another limit for a moment."""
    [order] = place(system, facts, 0, ("busted", "BUY", "4", "12"))
    system.drain()
    _set_limit(system, order, 11)
    match(system, facts, "busted", order, "1")
    system.drain()
    _set_limit(system, order, 12)
    cancel(system, order)
    system.drain()


def _set_limit(system: System, order_id: str, price: int) -> None:
    sql(system, "asset_service", f"UPDATE asset_reservations SET limit_price = {price} WHERE holder_id = '{order_id}'")


def slow_answer(system: System, facts: Facts) -> None:
    """asset_service's answer does not come in time, so the processor asks again; then both come."""
    [order] = place(system, facts, 0, ("slow", "BUY", "2", "10"))
    system.held_back = {"asset_service"}
    timers, system.timers = system.timers, ()
    system.drain()
    system.timers = timers
    sql(
        system,
        "processor",
        "UPDATE saga_instances SET deadline_at = brokage_now() - interval '1 hour', updated_at = brokage_now() - interval '1 hour'"
        f" WHERE saga_id = '{order}' AND awaiting",
    )
    sql(
        system,
        "processor",
        f"UPDATE outbox_events SET acked_at = acked_at - interval '1 hour' WHERE aggregate_id = '{order}'",
    )
    system.drain()
    system.held_back = set()
    system.drain()


def split(system: System, facts: Facts) -> None:
    """The first two tries of a batch fail, so it is taken in parts."""
    with failing(system, facts, times=2):
        place(system, facts, 0, ("one", "BUY", "1", "10"), ("two", "BUY", "1", "11"))
        system.drain()


def split_once(system: System, facts: Facts) -> None:
    """The first try of a batch fails, and the second, of all its events, does not."""
    with failing(system, facts, times=1):
        place(system, facts, 0, ("one", "BUY", "1", "10"), ("two", "BUY", "1", "11"))
        system.drain()


def parked(system: System, facts: Facts) -> None:
    """Every try of an event fails, until a person has repaired what it stumbles over and lets it go."""
    with failing(system, facts, times=100):
        place(system, facts, 0, ("parked", "BUY", "1", "10"))
        system.drain()

    def requeue(machine: Machine) -> None:
        letters = PostgresDeadLetters(
            machine.databases["asset_service"], consumer="asset_service", handler=asset_tasks.handle
        )
        for letter in letters.list_open(after=None, limit=10):
            letters.requeue(letter["id"], Context())

    system.request("requeue", requeue)
    system.drain()


class Stumbled(Exception):
    """A story's own failure, so that a cell cannot take it for its fault."""


class failing:
    """asset_service stumbles over reservations for the next `times`; only in the first life of a story."""

    def __init__(self, system: System, facts: Facts, *, times: int) -> None:
        self._system, self._left = system, times if facts.first_life else 0

    def __enter__(self) -> None:
        self._injector = self._system.injector
        self._system.injector = self._inject

    def __exit__(self, *error: object) -> None:
        self._system.injector = self._injector

    def _inject(self, point: str, act: Any) -> None:
        self._injector(point, act)
        if point == "asset_service.folded" and "ReserveAsset" in act.types and self._left:
            self._left -= 1
            raise Stumbled


def left_in_hand(system: System, facts: Facts) -> None:
    """A worker dies over an event and leaves its delivery in hand; the next worker tells the source, and lets others go first."""
    system.away = {"asset_service"} if facts.first_life else set()
    place(system, facts, 0, ("left in hand", "BUY", "1", "10"))
    if facts.first_life:
        system.drain(until=lambda: system.broker.unread("asset_service") > 0)
        _die_over_an_event(system)
        system.away = set()
    system.start_worker("asset_service")
    system.drain()


def _die_over_an_event(system: System) -> None:
    """In another process than the one that goes on. The delivery fails, so its event is tried alone; that is not survived."""
    data = system.fetch("asset_service")
    assert data is not None

    def at(point: str) -> None:
        if point == "asset_service.folded":
            raise Stumbled
        if point == "inbox.attempt_counted":
            raise Death

    with inject(at), suppress(Death):
        system.standby.receivers["asset_service"](data)
    die_with(system.environment, "asset_service", data)


def refused_by_the_broker(system: System, facts: Facts) -> None:
    if facts.first_life:
        system.broker.refusals = 1
    rejected(system, facts)


def deactivated(system: System, facts: Facts) -> None:
    place(system, facts, 0, ("left behind", "BUY", "5", "10"))
    system.drain()
    leaver, keys = facts.customers[0], FieldKeys({1: bytes(range(32))})
    system.request(
        "deactivate",
        lambda m: m.databases["customer_service"].run(
            lambda uow: update_customer(uow, leaver, {"active": False}, keys)
        ),
    )
    system.drain()


def mailed(system: System, facts: Facts) -> None:
    place(system, facts, 0, ("mailed", "BUY", "1", "10"))
    system.drain(rested=lambda: not _pending_mail(system, facts))


def _pending_mail(system: System, facts: Facts) -> bool:
    with documents(system, "notifier") as notifier:
        query = {"customer_id": {"$in": facts.customers}, "channels.email.status": "PENDING"}
        return notifier["notifications"].find_one(query) is not None


def read(system: System, facts: Facts) -> None:
    """A read of the trail is put on record, and chained soon after."""
    content = content_from_read(
        event_id=facts.key,
        timestamp=utc_now(),
        operation="search_audit_logs",
        query={},
        user_id=facts.customers[0],
        role="ADMIN",
        organization_id=ROOT_ORGANIZATION_ID,
        correlation_id=facts.key,
    )
    with documents(system, "auditor") as auditor:
        with suppress(DuplicateKeyError):
            audit_documents.put_intake(auditor, content)
        system.drain(rested=lambda: auditor["audit_intake"].find_one({}) is None)


def measured(system: System, facts: Facts) -> None:
    with documents(system, "auditor") as auditor:
        system.drain(rested=lambda: auditor["telemetry"].find_one({"correlation_id": facts.key}) is not None)


def leave_telemetry(system: System, facts: Facts) -> None:
    record = RequestRecord(
        timestamp=utc_now(),
        endpoint="/matrix",
        method="GET",
        response_time=1,
        status_code=200,
        user_id=facts.customers[0],
        correlation_id=facts.key,
        headers={},
    )
    client = redis.Redis.from_url(system.environment["BROKAGE_REDIS_URL"])
    batch = msgspec.json.encode([record])
    seals = seal.load_directory(Path(system.environment["BROKAGE_KEY_DIR"]))
    client.xadd(STREAM, {"batch": batch, "seal": seals.seal(seal.TELEMETRY_CHANNEL, batch)})
    client.close()


def forgotten(system: System, facts: Facts) -> None:
    system.drain(rested=lambda: not rows(system, "customer_service", _OLD_KEYS, key=facts.key))


_OLD_KEYS = "SELECT 1 FROM idempotency_records WHERE key = %(key)s"


def leave_an_old_key(system: System, facts: Facts) -> None:
    sql(
        system,
        "customer_service",
        "INSERT INTO idempotency_records (principal, method, route, key, request_digest, created_at)"
        f" VALUES ('matrix', 'POST', '/', '{facts.key}', '', brokage_now() - interval '2 days')",
    )


STORIES: Mapping[str, Story] = {
    "transferred": Story(transferred),
    "traded": Story(traded),
    "placed": Story(placed),
    "canceled": Story(canceled),
    "canceled_while_settling": Story(canceled_while_settling),
    "rejected": Story(rejected),
    "expired": Story(expired, timers=("order expiry",)),
    "busted": Story(busted),
    "slow_answer": Story(slow_answer, timers=("saga deadlines",)),
    "split": Story(split),
    "split_once": Story(split_once),
    "parked": Story(parked),
    "left_in_hand": Story(left_in_hand),
    "refused_by_the_broker": Story(refused_by_the_broker),
    "deactivated": Story(deactivated),
    "mailed": Story(mailed, timers=("notifier e-mail",), mail=True),
    "read": Story(read, timers=("auditor intake",)),
    "measured": Story(measured, prepare=leave_telemetry, timers=("auditor telemetry",)),
    "forgotten": Story(forgotten, prepare=leave_an_old_key, timers=("customer_service retention",)),
}


# -- the stores, as a test sees them ---------------------------------------------------------------------------------------


def sql(system: System, service: str, statement: str) -> None:
    with system.primary.databases[service].read() as connection:
        connection.execute(statement)


def rows(system: System, service: str, statement: str, **values: Any) -> list[dict[str, Any]]:
    with system.primary.databases[service].read() as connection:
        return connection.execute(statement, values).fetchall()


_clients: dict[tuple[str, str], MongoDatabase] = {}


class documents:
    """A Mongo database, on a client that this process keeps."""

    def __init__(self, system: System, name: str) -> None:
        key = (system.environment["BROKAGE_MONGO_URL"], name)
        self._database = _clients.get(key) or _clients.setdefault(key, MongoDatabase(*key))

    def __enter__(self) -> MongoDatabase:
        return self._database

    def __exit__(self, *error: object) -> None:
        pass


def found_customers(system: System, *, mail: bool) -> list[int]:
    """New customers with cash and shares, as many as one drain likes to take."""
    database = system.primary.databases
    ids = []
    for _ in range(CUSTOMERS_AT_ONCE):
        name = new_id()
        email = f"{name}@example.com" if mail else None
        ids.append(
            ensure_customer(
                database["customer_service"],
                Registration(username=name, password_hash="none", tier="FEES", email=email),
            )
        )

    def fund(uow: UnitOfWork) -> None:
        for customer_id in sorted(ids):
            for asset_name, amount in ((CASH, "10000"), (ASSET, "100")):
                transfers.deposit(
                    uow,
                    customer_id=customer_id,
                    asset_name=asset_name,
                    amount=Decimal(amount),
                    reference=f"first {asset_name}",
                )

    database["asset_service"].run(fund)
    system.drain()
    return ids


def open_the_market(system: System) -> None:
    database = system.primary.databases
    tier = {"tier_name": "With fees", "priority": 1, "rate_limit": 1000, "monthly_fee": 0}
    ensure_tier(
        database["customer_service"],
        tier_code="FEES",
        fee_rate=Decimal("0.001"),
        fee_minimum=Decimal("0.05"),
        **tier,
    )
    database["asset_service"].run(lambda uow: put_instrument(uow, asset_name=CASH, quote_asset=None, size_scale=8))
    share = {"quote_asset": CASH, "size_scale": 6, "price_scale": 2}
    database["asset_service"].run(lambda uow: put_instrument(uow, asset_name=ASSET, **share))
    system.drain()


def outcome(system: System, facts: Facts) -> dict[str, Any]:
    """All that became of a story's customers, without ids and times: two tellings that end alike are equal in it."""
    who = {"ids": facts.customers}
    orders = rows(system, "order_service", _ORDERS, **who)
    trades = rows(system, "processor", _TRADES, **who)
    ids = [row["id"] for row in orders] + [row["id"] for row in trades]
    with documents(system, "notifier") as notifier:
        told = [
            (facts.customers.index(row["customer_id"]), row["type"], row["channels"]["email"]["status"])
            for row in notifier["notifications"].find({"customer_id": {"$in": facts.customers}})
        ]
    with documents(system, "auditor") as auditor:
        about = [{"metadata.customer_id": {"$in": facts.customers}}, {"entity_id": {"$in": ids}}]
        trail = [row["action"] for row in auditor["audit_logs"].find({"$or": [*about, {"_id": facts.key}]})]
        seen = auditor["telemetry"].count_documents({"correlation_id": facts.key})
    return {
        "orders": sorted(
            (
                row["name"].removesuffix(f"-{facts.key}"),
                row["status"],
                str(row["filled_size"]),
                str(row["fee_amount"]),
                row["history"],
            )
            for row in orders
        ),
        "trades": sorted((row["status"], str(row["size"]), str(row["price"])) for row in trades),
        "assets": [
            (str(row["size"]), str(row["usable_size"])) for row in rows(system, "asset_service", _ASSETS, **who)
        ],
        "reservations": [tuple(row.values()) for row in rows(system, "asset_service", _RESERVATIONS, **who)],
        "entries": [
            tuple(row.values())
            for row in rows(system, "asset_service", _ENTRIES, owners=[str(i) for i in facts.customers])
        ],
        "sagas": sorted(row["current_state"] for row in rows(system, "processor", _SAGAS, ids=ids)),
        "told": sorted(told),
        "trail": sorted(trail),
        "telemetry": seen,
    }


_ORDERS = """
    SELECT o.id, o.client_order_id AS name, o.status, o.filled_size, o.fee_amount,
           (SELECT string_agg(h.status, ' ' ORDER BY h.seq) FROM order_history AS h WHERE h.order_id = o.id) AS history
      FROM orders AS o WHERE o.customer_id = ANY(%(ids)s)
"""
_TRADES = """
    SELECT t.id, t.status, t.size, t.price FROM trades AS t
     WHERE t.buyer_id = ANY(%(ids)s) OR t.seller_id = ANY(%(ids)s)
"""
_ASSETS = """
    SELECT size, usable_size FROM assets WHERE customer_id = ANY(%(ids)s) ORDER BY customer_id, asset_name
"""
_RESERVATIONS = """
    SELECT status, refusal, count(*) FROM asset_reservations WHERE customer_id = ANY(%(ids)s) GROUP BY 1, 2 ORDER BY 1, 2
"""
_ENTRIES = """
    SELECT t.kind, count(*), count(DISTINCT e.tx_ref)
      FROM ledger_entries AS e JOIN ledger_transactions AS t USING (tx_ref) JOIN ledger_accounts AS a USING (account_id)
     WHERE a.owner = ANY(%(owners)s) GROUP BY 1 ORDER BY 1
"""
_SAGAS = "SELECT current_state FROM saga_instances WHERE saga_id = ANY(%(ids)s::uuid[])"


def tell(system: System, story: Story, facts: Facts) -> None:
    """The whole story. It may be a repetition."""
    system.timers = story.timers
    story.tell(system, facts)
    system.timers, system.held_back, system.away = (), set(), set()
