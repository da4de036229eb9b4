"""`Prefer: wait`: one look at the database for all who wait, however many they are, when it says that orders have changed."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from order_service.repository import Row
from order_service.states import OrderStatus
from shared.db.engine import DatabaseUnavailable

POLL_SECONDS = 0.1
"""How often to look when nothing is heard: the bell is only quicker."""
WAITERS_MAX = 5000
"""Further requests are answered without waiting."""

Until = Callable[[Row], bool]


def is_judged(row: Row) -> bool:
    """Whether the saga has decided about a new order."""
    return row["status"] not in (OrderStatus.PENDING_RESERVATION, OrderStatus.ASSET_RESERVED)


def is_final(row: Row) -> bool:
    return row["final_status"] is not None


@dataclass(eq=False, slots=True)
class _Waiter:
    order_id: str
    until: Until
    future: "asyncio.Future[None]"
    row: Row


class OrderWaiters:
    """One per process; used from its event loop only.

    Args:
        find_changed: of the orders with these ids and versions, those that have another version by now, by id; called in a
            thread.
    """

    def __init__(self, find_changed: Callable[[Mapping[str, int]], Mapping[str, Row]]) -> None:
        self._find_changed = find_changed
        self._waiters: set[_Waiter] = set()
        self._poller: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Some order has changed. From any thread."""
        if self._waiters and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self, row: Row, seconds: float, until: Until) -> Row:
        """The order once `until` holds for it, or as it is when the time is over."""
        if seconds <= 0 or until(row) or len(self._waiters) >= WAITERS_MAX:
            return row
        waiter = _Waiter(row["id"], until, asyncio.get_running_loop().create_future(), row)
        self._loop = asyncio.get_running_loop()
        self._waiters.add(waiter)
        if self._poller is None or self._poller.done():
            self._poller = asyncio.create_task(self._poll())
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(waiter.future, seconds)
        finally:
            self._waiters.discard(waiter)
        return waiter.row

    async def _poll(self) -> None:
        while self._waiters:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._rung.wait(), POLL_SECONDS)
            self._rung.clear()
            # Of two who wait for one order the older view counts: neither may miss a change.
            views = sorted(((waiter.order_id, waiter.row["version"]) for waiter in self._waiters), reverse=True)
            if not views:
                return
            try:
                rows = await run_in_threadpool(self._find_changed, dict(views))
            except DatabaseUnavailable:
                continue  # it may be back before they lose patience; if not, they get what they have
            self._tell(rows)

    def _tell(self, rows: Mapping[str, Row]) -> None:
        for waiter in list(self._waiters):
            row = rows.get(waiter.order_id)
            if row is None:
                continue
            waiter.row = row
            if waiter.until(row) and not waiter.future.done():
                waiter.future.set_result(None)
