"""Races at the level of use cases: exactly one contender of each round wins, and the databases say so.

`RACE_ROUNDS` and `RACE_SEED` change how many rounds and which; without them 1,000 rounds of each race.
"""

import random
import time
from collections import Counter
from datetime import timedelta
from decimal import Decimal
from typing import Any

from asset_service.errors import InsufficientFunds
from asset_service.service.transfers import deposit, withdraw
from auditor import writer
from auditor.documents import LOGS
from auditor.keeping import Keeping
from auditor.records import content_from_event
from auditor.settings import Settings
from auditor.writer import ChainWriter
from order_service.service.canceling import cancel_order
from order_service.service.placing import Stored, place_orders
from processor.errors import OrderNotOpen
from processor.service import matching
from processor.service.expiry import expire_orders
from shared.clock import utc_now
from shared.contracts.assets import AssetReleased
from shared.contracts.system import AdminActed
from shared.db import Database
from shared.errors import BrokageError
from shared.idempotency import IdempotencyKeyInUse, IdempotentCall, KeyScope
from shared.ids import new_id
from shared.messaging.outbox import PostgresOutbox
from shared.mongo import MongoDatabase
from shared.testing.messages import create_message
from tests.integration.reconcile.reconcile_world import new_order
from tests.races.arena import ROUNDS, SEED, Arena, crowds, race, won

HOUR = timedelta(hours=1)


def rng(name: str) -> random.Random:
    """The same in every run, and another for each race."""
    return random.Random(f"{SEED} {name}")


def match(arena: Arena, order_id: str) -> list[str]:
    """All that is left of an order, against the house."""
    terms: dict[str, Any] = {"price": None, "size": None, "limit_only": False, "settings": arena.processor_settings}
    return arena.databases["processor"].run(lambda unit: matching.match_with_house(unit, order_id, **terms))


def test_of_all_who_match_an_order_one_does(arena: Arena) -> None:
    sizes = crowds(rng("match"))
    orders = arena.orders(arena.customers(len(sizes), "TRY", "1000"), "BUY", "1", "100")
    results = race([lambda order=order: match(arena, order)] * size for order, size in zip(orders, sizes, strict=True))
    assert [len(won(each)) for each in results] == [1] * ROUNDS
    assert {type(each) for round in results for each in round} == {list, OrderNotOpen}
    arena.pump.drain()
    trades = arena.rows("processor", "SELECT buy_order_id FROM trades WHERE buy_order_id = ANY(%(ids)s)", ids=orders)
    assert Counter(trade["buy_order_id"] for trade in trades) == dict.fromkeys(orders, 1)
    assert _statuses(arena, orders) == {"MATCHED": ROUNDS}


def test_of_cancel_match_and_expiry_one_ends_an_order(arena: Arena) -> None:
    """The cancel comes as the message that it is, sometimes to two workers; time runs out in the middle of it."""
    dice = rng("end")
    sizes = [max(3, size) for size in crowds(dice)]
    terms = {"expires_at": utc_now() + HOUR, "time_in_force": "GTD"}
    orders = arena.orders(arena.customers(len(sizes), "TRY", "1000"), "BUY", "1", "100", **terms)
    processor, placing = arena.databases["processor"], arena.databases["order_service"]
    with arena.single_messages():
        for order in orders:
            placing.run(lambda uow, order=order: cancel_order(uow, order))
    cancels = arena.waiting("order_service", "processor")

    def cancel(order: str) -> str:
        time.sleep(dice.uniform(0, 0.008))
        cancels.deliver(order)
        return "asked"

    def try_match(order: str) -> str:
        time.sleep(dice.uniform(0, 0.008))
        return match(arena, order)[0]

    def expire(order: str) -> str:
        with processor.read() as connection:
            connection.execute(
                "UPDATE matching_queue SET expires_at = brokage_now() + interval '3 milliseconds' WHERE id = %s",
                (order,),
            )
        time.sleep(dice.uniform(0.003, 0.008))
        expire_orders(processor, arena.processor_settings)
        return "asked"

    def contenders(order: str, size: int) -> list[Any]:
        works = [lambda: cancel(order), lambda: try_match(order), lambda: expire(order)]
        works += [dice.choice((lambda: cancel(order), lambda: try_match(order))) for _ in range(size - 3)]
        dice.shuffle(works)
        return works

    results = race(contenders(order, size) for order, size in zip(orders, sizes, strict=True))
    cancels.end()
    arena.pump.drain()
    ended = _statuses(arena, orders)
    assert sum(ended.values()) == ROUNDS
    assert ended.keys() == {"MATCHED", "CANCELED", "EXPIRED"}, "each of them wins now and then"
    trades = [trade for each in results for trade in won(each) if trade != "asked"]
    assert len(trades) == ended["MATCHED"]
    found = arena.rows("processor", "SELECT id FROM trades WHERE buy_order_id = ANY(%(ids)s)", ids=orders)
    assert sorted(trades) == sorted(trade["id"] for trade in found)


def test_of_withdrawals_and_orders_one_gets_the_last_unit(arena: Arena) -> None:
    dice = rng("last unit")
    sizes = crowds(dice)
    customers = arena.customers(len(sizes), "AAPL", "1")
    shares = [dice.randint(1, size - 1) for size in sizes]
    sellers = [customer for customer, number in zip(customers, shares, strict=True) for _ in range(number)]
    new = [new_order(customer, "SELL", "1", "100", asset_name="AAPL") for customer in sellers]
    for start in range(0, len(new), 200):
        arena.databases["order_service"].run(lambda uow, start=start: place_orders(uow, new[start : start + 200]))
    with arena.single_messages():
        arena.pump._empty("order_service")
    reserves = arena.waiting("processor", "asset_service")
    assets = arena.databases["asset_service"]

    def reserve(order: str) -> None:
        time.sleep(dice.uniform(0, 0.003))
        reserves.deliver(order)

    def take_out(customer: int) -> Any:
        time.sleep(dice.uniform(0, 0.003))
        terms: dict[str, Any] = {"asset_name": "AAPL", "amount": Decimal(1), "reference": new_id()}
        return assets.run(lambda uow: withdraw(uow, customer_id=customer, **terms))

    waiting = iter(order.claim.order_id for order in new)

    def contenders(customer: int, size: int, selling: int) -> list[Any]:
        works: list[Any] = [lambda order=next(waiting): reserve(order) for _ in range(selling)]
        works += [lambda: take_out(customer)] * (size - selling)
        dice.shuffle(works)
        return works

    rounds = zip(customers, sizes, shares, strict=True)
    results = race(contenders(*each) for each in rounds)
    assert {type(refusal) for each in results for refusal in each if isinstance(refusal, BrokageError)} == {
        InsufficientFunds
    }
    reserves.end()
    arena.pump.drain()
    query = """
        SELECT a.size, a.usable_size,
               (SELECT count(*) FROM transfers AS t
                 WHERE t.customer_id = a.customer_id AND t.kind = 'WITHDRAWAL') AS withdrawn,
               (SELECT count(*) FROM asset_reservations AS r
                 WHERE r.customer_id = a.customer_id AND r.status = 'ACTIVE') AS reserved
          FROM assets AS a WHERE a.customer_id = ANY(%(ids)s) AND a.asset_name = 'AAPL'"""
    found = arena.rows("asset_service", query, ids=customers)
    assert len(found) == ROUNDS
    ends = Counter((row["withdrawn"], row["reserved"], row["size"], row["usable_size"]) for row in found)
    assert ends.keys() == {(1, 0, Decimal(0), Decimal(0)), (0, 1, Decimal(1), Decimal(0))}


def test_of_orders_with_one_client_id_one_is_placed(arena: Arena) -> None:
    """Some of them ask for something else under the id."""
    dice = rng("client id")
    placing = arena.databases["order_service"]

    def place(customer: int, name: str, size: str) -> Stored:
        order = new_order(customer, "BUY", size, "10", client_order_id=name)
        claim = order.claim
        order = type(order)(order.row, 1, type(claim)(claim.order_id, None, claim.client_id, size), order.context)
        [outcome] = placing.run(lambda uow: place_orders(uow, [order]))
        if isinstance(outcome, BrokageError):
            raise outcome
        return outcome

    names = {number: f"race-{number}" for number in range(1, ROUNDS + 1)}
    results = race(
        [
            lambda name=name, size=size: place(-1, name, size)
            for size in [*dice.choices(("1", "2"), (4, 1), k=size - 1), "1"]
        ]
        for name, size in zip(names.values(), crowds(dice), strict=True)
    )
    for each in results:
        placed = [outcome for outcome in won(each) if outcome.status_code == 201]
        assert len(placed) == 1
        assert {outcome.row["id"] for outcome in won(each)} == {placed[0].row["id"]}
        assert {refusal.code for refusal in each if isinstance(refusal, BrokageError)} <= {"client-order-id-reused"}
    query = "SELECT client_order_id, count(*) AS times FROM orders WHERE customer_id = -1 GROUP BY client_order_id"
    found = {row["client_order_id"]: row["times"] for row in arena.rows("order_service", query)}
    assert found == dict.fromkeys(names.values(), 1)


def test_of_calls_with_one_key_one_has_an_effect(arena: Arena) -> None:
    """Deposits that only their key makes one: each names another reference."""
    assets = arena.databases["asset_service"]
    sizes = crowds(rng("key"))
    keys = [new_id() for _ in sizes]

    def pay_in(key: str) -> Any:
        call = IdempotentCall(KeyScope("-2", "POST", "/api/assets/deposit", key), "the same body")
        terms: dict[str, Any] = {"asset_name": "TRY", "amount": Decimal(1), "reference": new_id(), "call": call}
        return assets.run(lambda uow: deposit(uow, customer_id=-2, **terms))

    results = race([lambda key=key: pay_in(key)] * size for key, size in zip(keys, sizes, strict=True))
    for each in results:
        assert [answer.replayed for answer in won(each)].count(False) == 1
        assert len({(answer.resource_id, answer.status_code) for answer in won(each)}) == 1
        assert {type(answer) for answer in each if isinstance(answer, BrokageError)} <= {IdempotencyKeyInUse}
    transfers = arena.rows("asset_service", "SELECT id FROM transfers WHERE customer_id = -2")
    assert {row["id"] for row in transfers} == {won(each)[0].resource_id for each in results}
    [balance] = arena.rows("asset_service", "SELECT size FROM assets WHERE customer_id = -2")
    assert balance["size"] == ROUNDS


def test_of_crosses_that_share_an_order_one_is_made(arena: Arena) -> None:
    """By turns the buy and the sell is what all want; those on the other side stand there for all rounds."""
    dice = rng("cross")
    sizes = crowds(dice)
    buyers, sellers = arena.customers(len(sizes), "TRY", "1000"), arena.customers(len(sizes), "AAPL", "1")
    terms: dict[str, Any] = {"price": "10", "shares": ("AAPL",)}
    shared = [
        *arena.orders(buyers[0::2], "BUY", "1", **terms),
        *arena.orders(sellers[1::2], "SELL", "1", **terms),
    ]
    standing = {
        "BUY": arena.orders(arena.customers(50, "TRY", "1000000"), "BUY", "5000", **terms),
        "SELL": arena.orders(arena.customers(50, "AAPL", "5000"), "SELL", "5000", **terms),
    }
    half = len(buyers[0::2])

    def cross(buy: str, sell: str) -> list[str]:
        terms: dict[str, Any] = {"price": None, "size": Decimal(1), "settings": arena.processor_settings}
        return arena.databases["processor"].run(lambda unit: matching.cross(unit, buy, sell, **terms))

    def contenders(number: int, order: str, size: int) -> list[Any]:
        if number < half:
            return [lambda sell=sell: cross(order, sell) for sell in dice.sample(standing["SELL"], size)]
        return [lambda buy=buy: cross(buy, order) for buy in dice.sample(standing["BUY"], size)]

    rounds = enumerate(zip(shared, sizes, strict=True))
    results = race(contenders(number, order, size) for number, (order, size) in rounds)
    assert [len(won(each)) for each in results] == [1] * ROUNDS
    assert {type(refusal) for each in results for refusal in each if isinstance(refusal, BrokageError)} == {
        OrderNotOpen
    }
    arena.pump.drain()
    assert _statuses(arena, shared) == {"MATCHED": ROUNDS}


def test_of_relays_one_sends_a_batch(outbox_database: Database) -> None:
    """Also when its lease has run out: then again one of them does."""
    dice = rng("relay")
    relays = [PostgresOutbox(outbox_database, lease_seconds=60.0, events_max=500) for _ in range(50)]
    said: list[str] = []
    for size in crowds(dice):
        if said:
            expire = "UPDATE outbox_events SET lease_until = brokage_now() WHERE acked_at IS NULL"
            outbox_database.run(lambda unit, expire=expire: unit.connection.execute(expire) and None)
        else:
            said = [new_id() for _ in range(dice.randint(1, 3))]
            _say(outbox_database, said)
        [claims] = race([[lambda relay=relay: relay.step([], lambda destination: 0) for relay in relays[:size]]])
        sent = [batch for each in claims for claim in each for batch in claim.batches]
        lanes = [(claim.destination, lane) for each in claims for claim in each for lane in claim.lanes]
        assert len({batch.id for batch in sent}) == len(sent) > 0
        assert len(set(lanes)) == len(lanes)
        if dice.randrange(4):
            _acknowledge(outbox_database)
            said = []


def _say(database: Database, ids: list[str]) -> None:
    """Something about each of these, to somebody who does not listen."""
    event = AdminActed(action="race", subject={})
    database.run(lambda unit: [unit.record(event, aggregate_id=id, readers=["somebody"]) for id in ids] and None)


def _acknowledge(database: Database) -> None:
    statement = "UPDATE outbox_events SET status = 'ACKED', acked_at = brokage_now() WHERE acked_at IS NULL"
    database.run(lambda unit: unit.connection.execute(statement) and None)


def test_of_audit_writers_one_has_the_next_number(audit_database: MongoDatabase, monkeypatch: Any) -> None:
    """Each has an event of its own; in every fourth round there is one more that all of them have."""
    monkeypatch.setattr(writer, "_POLL_SECONDS", 0.005)
    writers = [ChainWriter(audit_database, wait_seconds=30.0) for _ in range(50)]
    told = AssetReleased(asset_name="", amount=Decimal(0), reason="")
    rounds, events = [], set()
    for number, size in enumerate(crowds(rng("audit"))):
        shared = [content_from_event(create_message(told))] if number % 4 == 0 else []
        contents = [[content_from_event(create_message(told)), *shared] for _ in range(size)]
        events |= {content["event_id"] for mine in contents for content in mine}
        rounds.append(
            [
                lambda each=each, mine=mine: each.append(mine)
                for each, mine in zip(writers[:size], contents, strict=True)
            ]
        )
    race(rounds, side_by_side=False)
    verification = Keeping(audit_database, Settings(mongo_url="unused"), None, None).verify()
    assert verification.valid, verification.first_bad
    assert verification.records == len(events)
    assert {row["_id"] for row in audit_database[LOGS].find({}, {"_id": 1})} == events


def test_afterwards_everything_is_in_order(arena: Arena) -> None:
    arena.pump.drain()
    found = arena.reconcile()
    assert {number: each.findings for number, each in found.items() if each.broken or each.moving} == {}
    assert all(each.rows for each in found.values())


def _statuses(arena: Arena, orders: list[str]) -> Counter[str]:
    return Counter(
        row["status"]
        for row in arena.rows("order_service", "SELECT status FROM orders WHERE id = ANY(%(ids)s)", ids=orders)
    )
