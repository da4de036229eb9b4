"""What does not go on by itself: events that fail, sagas that wait, consumers that stand still. Others are not held up, a
person sees it and lets it go, and everything ends as it should."""

import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shared.contracts.message import Event, partition_of
from shared.contracts.orders import MarkOrderCanceled, OrderCancelRequested, OrderSide
from shared.db import Database
from shared.ids import new_id
from tests.e2e.system import JUDGED, TERMS, System, User, wait_until

BACKLOG_MAX = 1_500
KIB_PER_REQUEST_MAX = 3.0
"""Some 0.3 are seen, and a tenth of that over tens of thousands."""
KILLER = new_id()
"""What is said of this order kills every worker that takes it."""


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    found = System(
        BROKAGE_BACKLOG_EVENTS_MAX=str(BACKLOG_MAX),
        BROKAGE_BACKLOG_POLL_SECONDS="0.1",
        BROKAGE_PARKED_ASK_SECONDS="0.5",
        BROKAGE_RELAY_LEASE_SECONDS="15",  # as in earnest: how long a killer stands in the way depends on it
        BROKAGE_FAULTS=f"inbox.handling/{KILLER}:kill:*",
    )
    try:
        found.start()
        yield found
    finally:
        found.close()


@contextmanager
def database(system: System, name: str) -> Iterator[Database]:
    found = Database(system.urls[name], name="e2e", pool_size=1)
    try:
        yield found
    finally:
        found.close()


def say(system: System, source: str, payload: Any, aggregate_id: str) -> None:
    """As a service would say it, had it gone mad."""
    with database(system, source) as found:
        found.run(lambda unit: unit.record(payload, aggregate_id=aggregate_id))


def cancel_of_nothing(asset_name: str = "AAPL") -> Event:
    terms = {"asset_name": asset_name, "quote_asset": "TRY", "size": Decimal(1), "price": Decimal(1)}
    return OrderCancelRequested(order_side=OrderSide.BUY, **terms)  # type: ignore[arg-type]


def query(system: System, name: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(system.urls[name], autocommit=True) as connection:
        return connection.execute(statement, values).fetchall()


def parked(system: System, service: str) -> list[dict[str, Any]]:
    """By the command line."""
    answer = system.command("dead-letters", "list", service, "--json")
    assert answer.returncode == 0, answer.stderr
    found: list[dict[str, Any]] = json.loads(answer.stdout)
    return found


def is_parked(system: System, aggregate_id: str) -> bool:
    rows = query(
        system, "processor", "SELECT 1 FROM dead_letters WHERE aggregate_id = %s AND status = 'PARKED'", aggregate_id
    )
    return bool(rows)


class TestAPoisonMessage:
    def test_that_raises_holds_nobody_up(self, system: System) -> None:
        """Every order is judged within the five seconds that its caller waits, whatever lane it shares."""
        buyer = system.customer(TRY="1000")
        poisons = [new_id() for _ in range(6)]
        for number in range(12):
            if number % 2:
                say(system, "orders", cancel_of_nothing(), poisons[number // 2])
            assert buyer.place("BUY", "1", "1", wait=5)["status"] == "ORDER_CONFIRMED"
        wait_until(lambda: all(is_parked(system, each) for each in poisons))
        found = {letter["aggregate_id"]: letter for letter in parked(system, "processor")}
        assert {found[each]["status"] for each in poisons} == {"PARKED"}
        assert found[poisons[0]]["reason"].startswith("UnknownSaga")

    def test_that_kills_its_process_is_parked_while_the_other_lane_goes_on(self, system: System) -> None:
        buyer = system.customer(TRY="1000")
        workers = {system.pid("worker")}
        say(system, "orders", cancel_of_nothing(), KILLER)
        deadline = time.monotonic() + 90.0
        while not is_parked(system, KILLER):
            assert time.monotonic() < deadline, "not parked within 90 s"
            workers.add(system.pid("worker"))
            buyer.place("BUY", "1", "1", wait=None)
            time.sleep(0.2)
        assert 3 <= len(workers) - 1 <= 5, (
            "three times alone, before that in its batch: twice if a slow machine made that large"
        )
        wait_until(lambda: all(order["status"] == "ORDER_CONFIRMED" for order in buyer.orders()))
        confirmed = self.confirmed_at(system, [order["id"] for order in buyer.orders()])
        beside = [at for id, at in confirmed.items() if lane_of_order(id) != lane_of_order(KILLER)]
        # By the order of events, not by seconds: how long a worker takes to come back is the machine's affair.
        assert sum(at < self.parked_at(system) for at in beside) >= len(beside) / 2, sorted(beside)

    def confirmed_at(self, system: System, order_ids: list[str]) -> dict[str, float]:
        rows = query(
            system,
            "orders",
            "SELECT order_id::text, extract(epoch FROM max(created_at))::float FROM order_history"
            " WHERE order_id = ANY(%s::uuid[]) GROUP BY order_id",
            order_ids,
        )
        assert len(rows) == len(order_ids)
        return dict(rows)  # type: ignore[arg-type]

    def parked_at(self, system: System) -> float:
        statement = "SELECT extract(epoch FROM created_at)::float FROM dead_letters WHERE aggregate_id = %s"
        [(at,)] = query(system, "processor", statement, KILLER)
        return float(at)


def lane_of_order(order_id: str) -> int:
    return partition_of(order_id) % 2


class TestRepair:
    def test_a_parked_event_is_requeued_with_what_was_held_behind_it(self, system: System) -> None:
        """Told to be canceled though nobody had asked; then its customer did."""
        buyer = system.customer(TRY="1000")
        order = buyer.confirmed("BUY", "1", "10")
        say(system, "processor", MarkOrderCanceled(), order["id"])
        [letter] = wait_until(lambda: self.letters(system, order["id"]))
        buyer.cancel(order["id"])
        wait_until(lambda: len(self.letters(system, order["id"])) == 2)
        shown = system.command("dead-letters", "show", "order_service", letter["id"])
        assert shown.returncode == 0, shown.stderr
        assert "InvalidTransition" in shown.stdout
        assert buyer.order(order["id"])["status"] == "PENDING_CANCEL"
        # Asked about every half second here, so that they are not PARKED at each moment.
        batches = (
            "SELECT count(*) FROM outbox_events WHERE status <> 'ACKED' AND destination = 'order_service'"
            " AND payload::text LIKE %s"
        )
        assert query(system, "processor", batches, f"%{order['id']}%") == [(2,)]

        done = system.command("dead-letters", "requeue", "order_service", letter["id"])

        assert (done.returncode, done.stdout) == (0, f"2 events of {order['id']} handled by order_service\n")
        wait_until(lambda: buyer.order(order["id"])["status"] == "CANCELED")
        assert buyer.balance("TRY") == (Decimal(1000), Decimal(1000))
        assert self.letters(system, order["id"]) == []
        wait_until(
            lambda: query(system, "processor", batches, f"%{order['id']}%") == [(0,)], what="the acknowledgement"
        )
        acts = wait_until(
            lambda: [
                record
                for record in system.auditor.all("/api/audit/logs", entity_type="admin_action", entity_id=letter["id"])
                if record["action"] == "requeue_dead_letter"
            ]
        )
        assert [record["role"] for record in acts] == ["OPERATOR"]

    def letters(self, system: System, order_id: str) -> list[dict[str, Any]]:
        return [each for each in parked(system, "order_service") if each["aggregate_id"] == order_id]

    def test_what_fails_again_changes_nothing(self, system: System) -> None:
        unknown = new_id()
        say(system, "orders", cancel_of_nothing(), unknown)
        wait_until(lambda: is_parked(system, unknown))
        [letter] = [each for each in parked(system, "processor") if each["aggregate_id"] == unknown]
        again = system.command("dead-letters", "requeue", "processor", letter["id"])
        assert (again.returncode, again.stdout) == (1, "")
        assert again.stderr == "brokage: It failed again: UnknownSaga.\n"
        missing = system.command("dead-letters", "show", "processor", new_id())
        assert missing.returncode == 1

    def test_a_stuck_saga_goes_on(self, system: System) -> None:
        buyer = system.customer(TRY="1000")
        order_id = buyer.confirmed("BUY", "1", "10")["id"]
        # Confirmed is not yet on the book: the processor hears of it a moment later.
        on_book = "SELECT 1 FROM matching_queue WHERE id = %s AND on_book"
        wait_until(lambda: query(system, "processor", on_book, order_id))
        query(
            system,
            "processor",
            "WITH off AS (UPDATE matching_queue SET on_book = false WHERE id = %s)"
            " UPDATE saga_instances SET current_state = 'NEEDS_HUMAN', resume_state = 'RESTING', reason = 'two busts'"
            " WHERE saga_id = %s RETURNING 1",
            order_id,
            order_id,
        )
        listed = system.command("sagas", "list")
        assert (listed.returncode, order_id in listed.stdout, "two busts" in listed.stdout) == (0, True, True)
        shown = json.loads(system.command("sagas", "show", order_id, "--json").stdout)
        assert (shown["current_state"], shown["resume_state"]) == ("NEEDS_HUMAN", "RESTING")
        done = system.command("sagas", "retry", order_id)
        assert (done.returncode, done.stdout) == (0, f"{order_id} goes on in RESTING\n")
        again = system.command("sagas", "retry", order_id)
        assert (again.returncode, again.stdout) == (1, "")
        assert system.admin.match(order_id).status_code == 202
        wait_until(lambda: buyer.order(order_id)["status"] == "MATCHED")
        assert system.command("sagas", "show", new_id()).returncode == 1


class TestBackpressure:
    def test_orders_are_refused_while_consumers_stand_still_and_all_accepted_ones_end(self, system: System) -> None:
        buyer = system.customer(TRY="100000")
        worker = system.pid("worker")
        os.kill(worker, signal.SIGSTOP)
        try:
            accepting, refusing = Memory(system, warm=400), Memory(system, warm=1_000)
            accepted = self.place_until_refused(buyer, accepting)
            assert len(accepted) >= BACKLOG_MAX - 10
            for number in range(2_000):
                assert self.place(buyer).status_code == 503
                refusing.look(number)
            for memory in (accepting, refusing):
                grown = memory.kib_per_request()
                assert max(grown.values()) < KIB_PER_REQUEST_MAX, (grown, memory)
            assert 'brokage_backlog_refusing{service="order_service"} 1.0' in system.client.get("/metrics").text
            assert buyer.order(accepted[0])["status"] == "PENDING_RESERVATION", "it can be read all the while"
        finally:
            os.kill(worker, signal.SIGCONT)
        wait_until(lambda: all(each["status"] in JUDGED for each in buyer.orders()), 60.0, "the end of the backlog")
        assert {each["id"] for each in buyer.orders()} == set(accepted)
        assert {each["status"] for each in buyer.orders()} == {"ORDER_CONFIRMED"}
        wait_until(lambda: self.place(buyer).status_code == 201, 30.0, "new orders")

    def place_until_refused(self, buyer: User, memory: "Memory") -> list[str]:
        accepted: list[str] = []

        def refused() -> bool:
            answer = self.place(buyer)
            if answer.status_code == 503:
                assert (answer.json()["code"], answer.headers["Retry-After"]) == ("backlog-full", "5")
                return True
            assert answer.status_code == 201, answer.text
            accepted.append(answer.json()["id"])
            memory.look(len(accepted))
            return False

        wait_until_at_once(refused)
        return accepted

    def place(self, buyer: User) -> Any:
        body = {**TERMS, "order_side": "BUY", "size": "1", "price": "1", "client_order_id": new_id()}
        return buyer.once("POST", "/api/orders", json=body)


def wait_until_at_once(predicate: Callable[[], bool]) -> None:
    """Without pauses, and not for ever."""
    for _ in range(10 * BACKLOG_MAX):
        if predicate():
            return
    raise AssertionError("it was never refused")


class Memory:
    """What processes that must not hold a backlog take, over requests. The first `warm` ones fill pools and caches."""

    def __init__(self, system: System, *, warm: int) -> None:
        self._warm = warm
        self._pids = {role: system.pid(role) for role in ("api", "relay", "supervisor")}
        self.samples: dict[str, list[tuple[int, int]]] = {role: [] for role in self._pids}

    def look(self, requests: int) -> None:
        if requests >= self._warm and requests % 50 == 0:
            for role, pid in self._pids.items():
                self.samples[role].append((requests, proportional_kib(pid)))

    def kib_per_request(self) -> dict[str, float]:
        """The slope of the line through the samples of each."""
        return {
            role: statistics.linear_regression(*zip(*samples, strict=True)).slope
            for role, samples in self.samples.items()
        }

    def __repr__(self) -> str:
        return str(self.samples)


def proportional_kib(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")]
    return int(line.split()[1])
