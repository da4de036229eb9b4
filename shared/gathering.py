"""One question to a store for all who ask in the same moment."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Gathering(Generic[Question, Answer]):
    """What is asked in one turn of the event loop is answered by one call. Nobody waits for company: who is alone asks alone.

    Args:
        answer: the answers to some questions, in their order. What it raises reaches all who asked.
        at_most: questions in one call.
    """

    def __init__(self, answer: Callable[[list[Question]], Awaitable[Sequence[Answer]]], *, at_most: int) -> None:
        self._answer = answer
        self._at_most = at_most
        self._asked: list[tuple[Question, asyncio.Future[Answer]]] = []
        self._calls: set[asyncio.Task[None]] = set()

    def ask(self, question: Question) -> "asyncio.Future[Answer]":
        """From the event loop only."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._call)
        future: asyncio.Future[Answer] = loop.create_future()
        self._asked.append((question, future))
        return future

    def _call(self) -> None:
        asked, self._asked = self._asked, []
        for start in range(0, len(asked), self._at_most):
            task = asyncio.create_task(self._tell(asked[start : start + self._at_most]))
            self._calls.add(task)  # the loop itself would let it go
            task.add_done_callback(self._calls.discard)

    async def _tell(self, asked: "list[tuple[Question, asyncio.Future[Answer]]]") -> None:
        try:
            answers = await self._answer([question for question, _ in asked])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is for those who asked
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(asked, answers, strict=True):
            if not future.done():  # done: whoever asked has gone away
                future.set_result(answer)
