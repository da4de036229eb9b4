"""Group commit: requests that arrive while others are being stored are stored together, in one transaction.

A request at rest is stored at once. Where the last transaction had company more is on its way, and a moment's wait fills
the next one. A transaction of two hundred orders costs little more than one of one, so under load this is worth several times
the throughput. Where many wait for one transaction a second one begins beside it, so that callers are answered meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from order_service.errors import TooManyOrders
from shared.db.engine import DatabaseUnavailable
from shared.faults import fault
from shared.logging import logger

Item = TypeVar("Item")
Result = TypeVar("Result")
log = logger("group_commit")
_FEW = 8
_AT_ONCE = 2


class GroupCommit(Generic[Item, Result]):
    """One per process; used from its event loop only.

    Args:
        commit: stores a batch in one transaction, in a thread, and says what became of each item. When it raises,
            nothing of the batch is stored.
        linger_seconds: how long after a transaction with company the next one is waited for to fill; after one with little
            company five times as long, because transactions of a few cost most of what large ones do.
        waiting_max: items that wait for their turn; more are refused.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        linger_seconds: float = 0.002,
        batch_max: int = 200,
        waiting_max: int = 2000,
    ) -> None:
        self._commit = commit
        self._linger_seconds = linger_seconds
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._flushes: set[asyncio.Task[None]] = set()
        self._lingering = False
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="group-commit")

    async def submit(self, item: Item) -> Result:
        """Store `item`, alone or in company; returns after the commit. Once taken, an item is stored even if the caller
        goes away.

        Raises:
            TooManyOrders: too many are waiting already; it was not taken.
            Exception: what `commit` raised for this item alone.
        """
        if len(self._waiting) >= self._waiting_max:
            raise TooManyOrders()
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._start_flush()
        return await future

    def close(self) -> None:
        """End the threads, after the flushes in hand."""
        self._threads.shutdown(wait=True)

    def _start_flush(self) -> None:
        waiting = len(self._waiting)
        if not waiting or len(self._flushes) == _AT_ONCE:
            return
        # Two halves cost more than a whole, so the second one is worth it only if it is large.
        if self._flushes and waiting < self._batch_max / 2:
            return
        if self._lingering and waiting < self._batch_max:
            return
        size = min(waiting, self._batch_max)
        batch = [self._waiting.popleft() for _ in range(size)]
        flush = asyncio.create_task(self._flush(batch))
        self._flushes.add(flush)
        flush.add_done_callback(lambda task: self._flushed(task, size))

    def _flushed(self, flush: "asyncio.Task[None]", size: int) -> None:
        self._flushes.discard(flush)
        if size > 1 and self._linger_seconds and not self._lingering:
            self._lingering = True
            seconds = self._linger_seconds * (5 if size < _FEW else 1)
            asyncio.get_running_loop().call_later(seconds, self._lingered)
        self._start_flush()

    def _lingered(self) -> None:
        self._lingering = False
        self._start_flush()

    async def _flush(self, batch: list[tuple[Item, "asyncio.Future[Result]"]]) -> None:
        items = [item for item, _ in batch]
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._threads, commit_in_parts, self._commit, items)
        except BaseException as error:
            # The process is ending: nobody may wait for ever for an answer that will not come.
            for _, future in batch:
                if not future.done():
                    future.set_exception(DatabaseUnavailable("shutting down"))
            if isinstance(error, Exception):
                return
            raise
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue  # the caller went away; what he asked for is stored
            if isinstance(result, Failure):
                future.set_exception(result.error)
            else:
                future.set_result(result)


class Failure:
    """What `commit` raised for one item alone."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def commit_in_parts(
    commit: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result | Failure]:
    """Commit `items` together; when that fails, in halves, down to the one that is to blame, so that the others are
    stored all the same. While the database is away all fail alike, at once."""
    try:
        results: list[Result | Failure] = list(commit(items))
        fault("group_commit.committed")
        return results
    except DatabaseUnavailable as error:
        return [Failure(error) for _ in items]
    except Exception as error:  # noqa: BLE001 - whatever it is, it must reach its own caller and no other
        if len(items) == 1:
            return [Failure(error)]
        log.warning("batch_halved", items=len(items), error=type(error).__name__)
    middle = len(items) // 2
    return commit_in_parts(commit, items[:middle]) + commit_in_parts(commit, items[middle:])
