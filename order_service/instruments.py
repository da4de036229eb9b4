"""The instruments as this process knows them: a copy of the projection in memory, at most a second old."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool

from order_service import repository
from shared.auth.principals import ARRIVAL_SECONDS
from shared.db import Database

FRESH_SECONDS = 1.0
_POLL_SECONDS = 0.05
_MISSED_SECONDS = 10.0
_MISSED_MAX = 1000


@dataclass(frozen=True, slots=True)
class Instrument:
    """What can be traded, and how finely. Cash has no `quote_asset`."""

    asset_name: str
    quote_asset: str | None
    size_scale: int
    price_scale: int
    quote_scale: int


def load_instruments(database: Database) -> dict[str, Instrument]:
    with database.read() as connection:
        rows = repository.list_instruments(connection)
    return {row["asset_name"]: Instrument(**{name: row[name] for name in Instrument.__slots__}) for row in rows}


class InstrumentDirectory:
    """Asked on the event loop; loads in a thread, once for all who wait."""

    def __init__(
        self, load: Callable[[], Mapping[str, Instrument]], *, arrival_seconds: float = ARRIVAL_SECONDS
    ) -> None:
        self._load = load
        self._arrival_seconds = arrival_seconds
        self._known: Mapping[str, Instrument] = {}
        self._fresh_until = 0.0
        self._loading: asyncio.Task[None] | None = None
        self._missed: OrderedDict[str, float] = OrderedDict()

    async def find(self, asset_name: str) -> Instrument | None:
        """The instrument. One that is not known may be on its way here and is waited for, up to 2 s; who asks for the
        same name again soon is told at once."""
        if time.monotonic() >= self._fresh_until:
            await self._reload()
        found = self._known.get(asset_name)
        if found is not None or self._missed.get(asset_name, 0.0) > time.monotonic():
            return found
        deadline = time.monotonic() + self._arrival_seconds
        while found is None and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
            await self._reload()
            found = self._known.get(asset_name)
        if found is None:
            self._remember_missed(asset_name)
        return found

    async def _reload(self) -> None:
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._replace())
        # Shielded: one caller who goes away must not stop the load of the others.
        await asyncio.shield(self._loading)

    async def _replace(self) -> None:
        self._known = await run_in_threadpool(self._load)
        self._fresh_until = time.monotonic() + FRESH_SECONDS

    def _remember_missed(self, asset_name: str) -> None:
        self._missed[asset_name] = time.monotonic() + _MISSED_SECONDS
        while len(self._missed) > _MISSED_MAX:
            self._missed.popitem(last=False)
