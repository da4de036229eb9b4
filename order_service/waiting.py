"""`Prefer: wait`: one look at the database for all who wait, however many they are."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from order_service.models import OrderStatus
from order_service.repository import Row
from shared.db.engine import DatabaseUnavailable

POLL_SECONDS_MIN = 0.005
POLL_SECONDS_MAX = 0.05
_GROWTH = 1.5
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
        find: the orders of some ids, by id; called in a thread.
    """

    def __init__(self, find: Callable[[Collection[str]], Mapping[str, Row]]) -> None:
        self._find = find
        self._waiters: set[_Waiter] = set()
        self._poller: asyncio.Task[None] | None = None
        self._interval = POLL_SECONDS_MIN

    async def wait(self, row: Row, seconds: float, until: Until) -> Row:
        """The order once `until` holds for it, or as it is when the time is over."""
        if seconds <= 0 or until(row) or len(self._waiters) >= WAITERS_MAX:
            return row
        waiter = _Waiter(row["id"], until, asyncio.get_running_loop().create_future(), row)
        self._waiters.add(waiter)
        self._interval = POLL_SECONDS_MIN
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
            await asyncio.sleep(self._interval)
            self._interval = min(self._interval * _GROWTH, POLL_SECONDS_MAX)
            ids = {waiter.order_id for waiter in self._waiters}
            if not ids:
                return
            try:
                rows = await run_in_threadpool(self._find, ids)
            except DatabaseUnavailable:
                continue  # it may be back before they lose patience; if not, they get what they have
            self._tell(rows)

    def _tell(self, rows: Mapping[str, Row]) -> None:
        for waiter in list(self._waiters):
            row = rows.get(waiter.order_id)
            if row is None:
                continue
            if row["version"] != waiter.row["version"]:
                waiter.row = row
                self._interval = POLL_SECONDS_MIN  # things move: look again soon
            if waiter.until(row) and not waiter.future.done():
                waiter.future.set_result(None)
