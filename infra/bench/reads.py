"""Reads over HTTP: how long they take and how many pages of the database they touch."""

from __future__ import annotations

import statistics
import time
from typing import Any

from infra.bench.client import Connection, connect, request
from infra.bench.counters import buffers
from infra.bench.load import Watch
from infra.bench.population import Population
from infra.bench.system import BenchSystem

REPEATS = 200


async def measure_reads(system: BenchSystem, population: Population, watch: Watch) -> dict[str, Any]:
    """Each read `REPEATS` times, by different customers, on a system at rest with all caches warm.

    Returns:
        Milliseconds, and for the reads from Postgres the pages touched, whether in memory or not, everything that the request
        needed included. `orders`: how many there were.
    """
    order_ids = watch.some_orders(REPEATS)
    customers = population.tokens[:REPEATS]
    reads = {
        "page_of_50_orders": [request("GET", "/api/orders?limit=50", token=token) for token in customers],
        "assets_of_a_customer": [request("GET", "/api/assets", token=token) for token in customers],
        "audit_search": [
            request("GET", f"/api/audit/logs?entity_type=order&entity_id={order_id}", token=population.admin)
            for order_id in order_ids
        ],
    }
    connection = await connect(population.port)
    try:
        for requests in reads.values():
            await _timed(connection, requests[:20])
        before = buffers(system)
        times = {name: await _timed(connection, requests) for name, requests in reads.items()}
        after = buffers(system)
    finally:
        connection.close()
    touched = {"page_of_50_orders": "order_service", "assets_of_a_customer": "asset_service"}
    found: dict[str, Any] = {"orders": watch.totals().matched}
    for name, seconds in times.items():
        found[name] = {"p50_ms": _ms(statistics.median(seconds)), "p99_ms": _ms(seconds[int(len(seconds) * 0.99)])}
        if service := touched.get(name):
            found[name]["buffers"] = round((after[service] - before[service]) / len(seconds), 1)
    return found


async def _timed(connection: Connection, requests: list[bytes]) -> list[float]:
    """The sorted seconds of each, one after the other."""
    seconds = []
    for data in requests:
        started = time.perf_counter()
        (await connection.send(data)).expect(200)
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)
