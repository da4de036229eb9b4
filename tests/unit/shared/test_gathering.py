"""Questions of one moment, answered together."""

import asyncio
from collections.abc import Sequence

import pytest

from shared.gathering import Gathering


class Store:
    """Answers with the double; notes what it was asked in each call."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[list[int]] = []
        self._failure = failure

    async def answer(self, questions: Sequence[int]) -> list[int]:
        self.calls.append(list(questions))
        await asyncio.sleep(0)
        if self._failure is not None:
            raise self._failure
        return [2 * question for question in questions]


def test_who_asks_in_one_turn_shares_a_call_and_gets_his_own_answer() -> None:
    store = Store()

    async def ask() -> list[int]:
        gathering = Gathering(store.answer, at_most=10)
        first = list(await asyncio.gather(*(gathering.ask(number) for number in (1, 2, 1))))
        return [*first, await gathering.ask(5)]

    assert asyncio.run(ask()) == [2, 4, 2, 10]
    assert store.calls == [[1, 2, 1], [5]]


def test_a_call_has_a_bound() -> None:
    store = Store()

    async def ask() -> list[int]:
        gathering = Gathering(store.answer, at_most=2)
        return list(await asyncio.gather(*map(gathering.ask, range(5))))

    assert asyncio.run(ask()) == [0, 2, 4, 6, 8]
    assert store.calls == [[0, 1], [2, 3], [4]]


def test_a_failure_reaches_all_who_asked_and_nobody_after() -> None:
    store = Store(OSError("away"))

    async def ask() -> list[int | BaseException]:
        gathering = Gathering(store.answer, at_most=10)
        together = await asyncio.gather(gathering.ask(1), gathering.ask(2), return_exceptions=True)
        store._failure = None
        return [*together, await gathering.ask(3)]

    *failed, later = asyncio.run(ask())
    assert [type(error) for error in failed] == [OSError, OSError]
    assert later == 6


def test_one_who_goes_away_does_not_take_the_others_along() -> None:
    async def ask() -> int:
        gathering = Gathering(Store().answer, at_most=10)
        leaving, staying = gathering.ask(1), gathering.ask(2)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        return await staying

    assert asyncio.run(ask()) == 4
