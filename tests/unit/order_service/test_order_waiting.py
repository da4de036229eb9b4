"""Waiting for orders with a store in memory."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from order_service import waiting
from order_service.waiting import OrderWaiters, is_final, is_judged
from shared.db.engine import DatabaseUnavailable


def order(order_id: str, status: str = "PENDING_RESERVATION", version: int = 1) -> dict[str, Any]:
    final = status if status in ("MATCHED", "CANCELED", "REJECTED", "EXPIRED") else None
    return {"id": order_id, "status": status, "final_status": final, "version": version}


class Store:
    def __init__(self) -> None:
        self.rows = {name: order(name) for name in "abc"}
        self.asked: list[set[str]] = []
        self.down = 0

    def find(self, ids: Iterable[str]) -> Mapping[str, dict[str, Any]]:
        self.asked.append(set(ids))
        if self.down:
            self.down -= 1
            raise DatabaseUnavailable("orders")
        return {name: self.rows[name] for name in self.asked[-1]}


def test_all_are_asked_for_at_once_and_answered_when_their_own_time_comes() -> None:
    store = Store()

    async def main() -> None:
        waiters = OrderWaiters(store.find)
        tasks = {name: asyncio.create_task(waiters.wait(store.rows[name], 5, is_judged)) for name in "abc"}
        await asyncio.sleep(0.05)
        store.rows["b"] = order("b", "REJECTED", 2)
        assert (await tasks["b"])["status"] == "REJECTED"
        assert not tasks["a"].done()
        store.rows["a"] = order("a", "ORDER_CONFIRMED", 3)
        store.rows["c"] = order("c", "ORDER_CONFIRMED", 3)
        assert [(await tasks[name])["version"] for name in "ac"] == [3, 3]

    asyncio.run(main())
    assert store.asked[0] == {"a", "b", "c"}
    assert store.asked[-1] <= {"a", "c"}


def test_the_poller_ends_with_the_last_who_waits() -> None:
    store = Store()

    async def main() -> None:
        waiters = OrderWaiters(store.find)
        row = await waiters.wait(store.rows["a"], 0.05, is_final)
        assert row["status"] == "PENDING_RESERVATION"
        await asyncio.sleep(0.12)
        asked = len(store.asked)
        await asyncio.sleep(0.12)
        assert len(store.asked) == asked

    asyncio.run(main())


def test_an_absent_database_is_outlasted() -> None:
    store = Store()
    store.down = 3
    store.rows["a"] = order("a", "ORDER_CONFIRMED", 3)

    async def main() -> None:
        row = await OrderWaiters(store.find).wait(order("a"), 5, is_judged)
        assert row["status"] == "ORDER_CONFIRMED"

    asyncio.run(main())


def test_what_has_happened_is_not_asked_for() -> None:
    store = Store()

    async def main() -> None:
        waiters = OrderWaiters(store.find)
        assert (await waiters.wait(order("a", "MATCHED"), 5, is_final))["status"] == "MATCHED"
        assert (await waiters.wait(order("a"), 0, is_final))["status"] == "PENDING_RESERVATION"

    asyncio.run(main())
    assert not store.asked


def test_a_bell_from_another_thread_is_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 60.0)
    store = Store()

    async def main() -> None:
        waiters = OrderWaiters(store.find)
        waiters.ring()  # nobody waits yet
        task = asyncio.create_task(waiters.wait(store.rows["a"], 5, is_judged))
        await asyncio.sleep(0)
        store.rows["a"] = order("a", "ORDER_CONFIRMED", 3)
        await asyncio.to_thread(waiters.ring)
        assert (await task)["status"] == "ORDER_CONFIRMED"

    asyncio.run(main())


def test_of_two_views_of_an_order_the_older_one_is_compared() -> None:
    store = Store()
    store.rows["a"] = order("a", version=2)
    asked: list[Mapping[str, int]] = []

    def find(versions: Mapping[str, int]) -> Mapping[str, dict[str, Any]]:
        asked.append(versions)
        return {}

    async def main() -> None:
        waiters = OrderWaiters(find)
        await asyncio.gather(*(waiters.wait(order("a", version=version), 0.15, is_judged) for version in (3, 1, 2)))

    asyncio.run(main())
    assert asked[0] == {"a": 1}


def test_a_bell_after_the_end_of_the_loop_rings_for_nobody() -> None:
    waiters = OrderWaiters(Store().find)

    async def main() -> None:
        task = asyncio.create_task(waiters.wait(order("a"), 5, is_judged))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(main())
    waiters._waiters.add(object())  # type: ignore[arg-type]  # as if the loop had ended under him
    waiters.ring()
