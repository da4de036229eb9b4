"""Group commit with a committer that stores in memory."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from order_service.errors import TooManyOrders
from order_service.group_commit import Failure, GroupCommit, commit_in_parts
from shared.db.engine import DatabaseUnavailable

Group = GroupCommit[int, str]


class Committer:
    """Stores batches; while `gate` is closed it works on the first ones. `poison` breaks any batch it is in."""

    def __init__(self, poison: int | None = None) -> None:
        self.batches: list[list[int]] = []
        self.poison = poison
        self.gate = threading.Event()
        self.gate.set()
        self.running = 0
        self.running_max = 0
        self._lock = threading.Lock()

    def __call__(self, items: Sequence[int]) -> list[str]:
        with self._lock:
            self.running += 1
            self.running_max = max(self.running_max, self.running)
        self.gate.wait(5)
        with self._lock:
            self.running -= 1
            if self.poison in items:
                raise ValueError("poison")
            self.batches.append(list(items))
        return [f"stored {item}" for item in items]

    @property
    def stored(self) -> list[int]:
        return sorted(item for batch in self.batches for item in batch)


def run(committer: Committer, work: Callable[[Group], Coroutine[Any, Any, None]], **limits: float) -> None:
    async def main() -> None:
        group: Group = GroupCommit(committer, **limits)
        try:
            await work(group)
        finally:
            committer.gate.set()
            await asyncio.to_thread(group.close)

    asyncio.run(asyncio.wait_for(main(), 20))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


def test_one_at_rest_is_stored_alone_and_at_once() -> None:
    committer = Committer()

    async def work(group: Group) -> None:
        assert await group.submit(1) == "stored 1"

    run(committer, work)
    assert committer.batches == [[1]]


def test_those_who_arrive_meanwhile_are_stored_together_in_order() -> None:
    committer = Committer()
    committer.gate.clear()

    async def work(group: Group) -> None:
        tasks = [asyncio.create_task(group.submit(number)) for number in range(20)]
        await settle()
        committer.gate.set()
        assert await asyncio.gather(*tasks) == [f"stored {number}" for number in range(20)]

    run(committer, work)
    assert committer.batches == [[0], list(range(1, 20))]
    assert committer.running_max == 1


def test_where_half_a_batch_waits_a_second_transaction_begins_but_no_third() -> None:
    committer = Committer()
    committer.gate.clear()

    async def work(group: Group) -> None:
        tasks = [asyncio.create_task(group.submit(number)) for number in range(30)]
        await settle()
        assert committer.running_max == 2
        committer.gate.set()
        assert await asyncio.gather(*tasks) == [f"stored {number}" for number in range(30)]

    run(committer, work, batch_max=20)
    assert sorted(committer.batches) == [[0], list(range(1, 11)), list(range(11, 30))]
    assert committer.running_max == 2


def test_after_company_the_next_one_is_waited_for_to_fill() -> None:
    committer = Committer()

    async def work(group: Group) -> None:
        first = [asyncio.create_task(group.submit(number)) for number in range(3)]
        await asyncio.gather(*first)
        later = []
        for number in range(3, 6):
            later.append(asyncio.create_task(group.submit(number)))
            await asyncio.sleep(0)
        await asyncio.gather(*later)

    run(committer, work, linger_seconds=0.05)
    assert committer.batches == [[0], [1, 2], [3, 4, 5]]


def test_after_much_company_it_is_waited_for_less_long(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def work(group: Group) -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def noted(seconds: float, what: Any, *args: Any, **options: Any) -> asyncio.TimerHandle:
            if what == group._lingered:
                waited.append(seconds)
            return call_later(seconds, what, *args, **options)

        monkeypatch.setattr(loop, "call_later", noted)
        for count in (3, 40):
            await asyncio.gather(*[group.submit(number) for number in range(count)])
            await asyncio.sleep(0.06)

    run(Committer(), work, linger_seconds=0.01)
    assert waited == [0.05, 0.01]


def test_a_full_batch_is_not_waited_with() -> None:
    committer = Committer()

    async def work(group: Group) -> None:
        await asyncio.gather(*[group.submit(number) for number in range(11)])

    run(committer, work, linger_seconds=60, batch_max=4)
    assert sorted(len(batch) for batch in committer.batches) == [1, 2, 4, 4]


def test_a_batch_has_a_bound() -> None:
    committer = Committer()
    committer.gate.clear()

    async def work(group: Group) -> None:
        tasks = [asyncio.create_task(group.submit(number)) for number in range(12)]
        await settle()
        committer.gate.set()
        await asyncio.gather(*tasks)

    run(committer, work, batch_max=5)
    assert committer.stored == list(range(12))
    assert sorted(len(batch) for batch in committer.batches) == [1, 3, 3, 5]


def test_full_queue_refuses_and_forgets() -> None:
    committer = Committer()
    committer.gate.clear()

    async def work(group: Group) -> None:
        tasks = [asyncio.create_task(group.submit(number)) for number in range(3)]
        await settle()
        with pytest.raises(TooManyOrders):
            await group.submit(3)
        committer.gate.set()
        await asyncio.gather(*tasks)

    run(committer, work, waiting_max=2)
    assert committer.stored == [0, 1, 2]


def test_who_goes_away_is_stored_all_the_same() -> None:
    committer = Committer()
    committer.gate.clear()

    async def work(group: Group) -> None:
        tasks = [asyncio.create_task(group.submit(number)) for number in range(4)]
        await settle()
        for task in tasks[::2]:
            task.cancel()
        await settle()
        committer.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [answer for answer in answers if isinstance(answer, str)] == ["stored 1", "stored 3"]

    run(committer, work)
    assert committer.stored == [0, 1, 2, 3]


def test_one_that_breaks_its_batch_fails_alone() -> None:
    committer = Committer(poison=7)
    committer.gate.clear()

    async def work(group: Group) -> None:
        tasks = [asyncio.create_task(group.submit(number)) for number in range(16)]
        await settle()
        committer.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [number for number, answer in enumerate(answers) if isinstance(answer, ValueError)] == [7]

    run(committer, work)
    assert committer.stored == [number for number in range(16) if number != 7]


def test_while_the_database_is_away_all_fail_without_being_halved() -> None:
    calls: list[int] = []

    def commit(items: Sequence[int]) -> list[str]:
        calls.append(len(items))
        raise DatabaseUnavailable("orders")

    results = commit_in_parts(commit, [1, 2, 3, 4])
    assert calls == [4]
    assert all(isinstance(result, Failure) for result in results)
