"""The load generator: customers that place orders, an admin that sweeps, and the watch that sees when all is done."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

from infra.bench.client import Connection, connect, request
from infra.bench.population import INSTRUMENTS, Population
from infra.bench.system import BenchSystem
from infra.runtime.serving import KEEP_ALIVE_SECONDS
from infra.servers.postgres import DATABASES
from shared.http.protocol import CONNECTIONS_MAX
from shared.ids import new_id

CONNECTIONS = 256
SWEEP_PAUSE_SECONDS = 0.05
POLL_SECONDS = 0.02
DONE_SECONDS = 240.0
REST_SECONDS_MAX = KEEP_ALIVE_SECONDS / 3
"""Well before the api hangs up on who rests."""
CALLERS_MAX = CONNECTIONS_MAX // 2
"""Who post at once at a rate. Beyond `CONNECTIONS_MAX` the api makes room, and hangs up on who has only just come."""


class NotDone(Exception):
    """What was accepted did not come to its end in time."""


def order_requests(population: Population, count: int, *, wait: int | None = None) -> list[bytes]:
    """Prepared requests: every two are a sale and a purchase that cross. A customer only buys or only sells, so that no order
    is left over because nobody trades with himself."""
    headers = {"Prefer": f"wait={wait}"} if wait is not None else None
    return [
        request(
            "POST",
            "/api/orders",
            token=population.tokens[number % len(population.tokens)],
            headers=headers,
            body=json.dumps(
                {
                    "client_order_id": new_id(),
                    "asset_name": INSTRUMENTS[number // 2 % len(INSTRUMENTS)],
                    "order_side": "BUY" if number % 2 else "SELL",
                    "order_type": "LIMIT",
                    "size": "1",
                    "price": "100",
                    "time_in_force": "GTC",
                }
            ).encode(),
        )
        for number in range(count)
    ]


async def post_all(port: int, requests: Sequence[bytes]) -> float:
    """Post all, `CONNECTIONS` at a time, each of which must be accepted; the seconds it took."""
    waiting = list(reversed(requests))

    async def work(connection: Connection) -> None:
        while waiting:
            (await connection.send(waiting.pop())).expect(201)

    async with _connections(port, CONNECTIONS) as connections:
        started = time.perf_counter()
        await asyncio.gather(*(work(connection) for connection in connections))
        return time.perf_counter() - started


@dataclass(frozen=True, slots=True)
class Answered:
    """`seconds`, sorted, from when each order was due to its answer; `unconfirmed`: how many answers did not say ORDER_CONFIRMED,
    because that took longer than their caller waits."""

    seconds: list[float]
    unconfirmed: int


async def post_at(port: int, requests: Sequence[bytes], per_second: float) -> Answered:
    """Post at a steady rate whatever the answers do, counting from when each was due, also while all `CALLERS_MAX` are waiting.

    Args:
        requests: with a preference to wait.
    """
    idle: list[Connection] = []
    seconds: list[float] = []
    unconfirmed = 0
    callers = asyncio.Semaphore(CALLERS_MAX)

    async def one(due: float, data: bytes) -> None:
        nonlocal unconfirmed
        async with callers:
            connection = _rested_least(idle) or await connect(port)
            answer = (await connection.send(data)).expect(201)
            seconds.append(time.perf_counter() - due)
            idle.append(connection)
            unconfirmed += b'"ORDER_CONFIRMED"' not in answer.body

    tasks = []
    started = time.perf_counter() + 0.05
    for number, data in enumerate(requests):
        due = started + number / per_second
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due, data)))
    try:
        await asyncio.gather(*tasks)
    finally:
        for connection in idle:
            connection.close()
    return Answered(sorted(seconds), unconfirmed)


def _rested_least(idle: list[Connection]) -> Connection | None:
    """The last one of `idle`, taken from it; None if even that may be hung up on at any moment."""
    if idle and idle[-1].rest_seconds > REST_SECONDS_MAX:
        for connection in idle:
            connection.close()
        idle.clear()
    return idle.pop() if idle else None


@contextlib.asynccontextmanager
async def sweeping(population: Population) -> AsyncIterator[None]:
    """An admin runs the matching again and again meanwhile. The answers are not parsed: they are no part of what is measured."""
    stop = asyncio.Event()

    async def sweep(connection: Connection) -> None:
        while not stop.is_set():
            headers = {"Idempotency-Key": new_id()}
            run = request("POST", "/api/matching/run", token=population.admin, body=b"{}", headers=headers)
            answer = (await connection.send(run)).expect(202)
            if not answer.body.endswith(b'"more":true}'):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), SWEEP_PAUSE_SECONDS)

    async with _connections(population.port, 1) as connections:
        task = asyncio.create_task(sweep(connections[0]))
        try:
            yield
        finally:
            stop.set()
            await task


@contextlib.asynccontextmanager
async def _connections(port: int, count: int) -> AsyncIterator[list[Connection]]:
    opened = [await connect(port) for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


@dataclass(frozen=True, slots=True)
class Totals:
    """How far the orders are, by what the databases say."""

    matched: int
    settled_trades: int


class Watch:
    """Looks into the databases. Every look is a statement in one long transaction per database, which is committed once: looking
    adds nothing to the transactions that are counted."""

    def __init__(self, system: BenchSystem) -> None:
        self._connections = {}
        for service, (database, _, _) in DATABASES.items():
            connection = system.connect(database)
            connection.autocommit = False
            # The answer to a prepared statement keeps its snapshot until the next one comes, and no row of the database that
            # changes meanwhile could be pruned: what looks on would slow down what it looks at.
            connection.prepare_threshold = None
            # The few that are left are found by the partial indexes, not by reading all that is done.
            connection.execute("SET enable_seqscan = off")
            self._connections[service] = connection

    def close(self) -> None:
        for connection in self._connections.values():
            connection.commit()
            connection.close()

    def has_open_orders(self) -> bool:
        return self._any("order_service", "SELECT FROM orders WHERE closed_at IS NULL")

    def has_unacknowledged(self) -> bool:
        statement = "SELECT FROM outbox_events WHERE acked_at IS NULL"
        return any(self._any(service, statement) for service in self._connections)

    def awaiting_sagas(self) -> int:
        return self._number("processor", "SELECT count(*) FROM saga_instances WHERE awaiting")

    def some_orders(self, count: int) -> list[str]:
        """Ids, spread over all there are."""
        rows = self._connections["order_service"].execute(
            "SELECT id::text FROM orders ORDER BY md5(id::text) LIMIT %s", (count,)
        )
        return [row[0] for row in rows]

    def totals(self) -> Totals:
        return Totals(
            self._number("order_service", "SELECT count(*) FROM orders WHERE status = 'MATCHED'"),
            self._number("processor", "SELECT count(*) FROM trades WHERE status = 'SETTLED'"),
        )

    def _any(self, service: str, statement: str) -> bool:
        # Not counted: a count of all that is open, fifty times a second, took a tenth of what was measured.
        return bool(self._number(service, f"SELECT EXISTS ({statement})"))

    def _number(self, service: str, statement: str) -> int:
        row = self._connections[service].execute(statement).fetchone()
        assert row
        return int(row[0])

    async def settled(self) -> None:
        """Returns when no order is open."""
        await self._until(self.has_open_orders, "orders are open")

    async def told(self) -> None:
        """Returns when every batch is acknowledged: each audit record and notification is stored."""
        await self._until(self.has_unacknowledged, "outbox batches are unacknowledged")

    async def _until(self, is_left: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DONE_SECONDS
        while is_left():
            if time.monotonic() > deadline:
                raise NotDone(f"after {DONE_SECONDS:.0f} s {what}")
            await asyncio.sleep(POLL_SECONDS)


@contextlib.contextmanager
def watching(system: BenchSystem) -> Iterator[Watch]:
    watch = Watch(system)
    try:
        yield watch
    finally:
        watch.close()
