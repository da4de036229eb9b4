"""The stages of a round, each on a system at rest and each leaving it so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.bench.load import Answered, NotDone, Totals, Watch, order_requests, post_all, post_at, sweeping
from infra.bench.population import Population
from infra.bench.processes import cpu_seconds, memory_mib
from infra.bench.system import BenchSystem


@dataclass(frozen=True, slots=True)
class Bench:
    """A system with its customers and somebody who looks."""

    system: BenchSystem
    population: Population
    watch: Watch


async def backlog(bench: Bench, orders: int) -> dict[str, Any]:
    """Accept `orders` while relay and worker are held, then let them go and sweep until all are settled, and until all is told.

    Rates are orders per second: `accepted`, `settled` and `told`, the last two from the moment of letting go.
    """
    await bench.population.stay_signed_in()
    requests = order_requests(bench.population, orders)
    before = bench.watch.totals()
    pids = bench.system.pids()
    began = cpu_seconds(pids)
    with bench.system.held("relay", "worker"):
        accepting = await post_all(bench.population.port, requests)
        accepted = cpu_seconds(pids)
    started = time.perf_counter()
    async with sweeping(bench.population):
        await bench.watch.settled()
        settling = time.perf_counter() - started
    settled = cpu_seconds(pids)
    await bench.watch.told()
    telling = time.perf_counter() - started
    told = cpu_seconds(pids)
    _check(before, bench.watch.totals(), orders)
    return {
        "accepted": round(orders / accepting, 1),
        "settled": round(orders / settling, 1),
        "told": round(orders / telling, 1),
        "cpu_ms_per_order": {
            "accept": _per_order(began, accepted, orders),
            "settle": _per_order(accepted, settled, orders),
            "tell": _per_order(settled, told, orders),
        },
    }


async def full_stack(bench: Bench, orders: int) -> dict[str, Any]:
    """Post `orders` as fast as they are taken while everything runs; from the first post until all are settled."""
    await bench.population.stay_signed_in()
    requests = order_requests(bench.population, orders)
    before = bench.watch.totals()
    started = time.perf_counter()
    async with sweeping(bench.population):
        await post_all(bench.population.port, requests)
        memory = await asyncio.to_thread(memory_mib, bench.system.pids())
        await bench.watch.settled()
        seconds = time.perf_counter() - started
    await bench.watch.told()
    _check(before, bench.watch.totals(), orders)
    return {"full_stack": round(orders / seconds, 1), "memory_mib": memory}


async def latency(bench: Bench, per_second: float, seconds: float) -> dict[str, float]:
    """From when an order was due to be posted until its ORDER_CONFIRMED was answered, in milliseconds, at a steady rate."""
    await bench.population.stay_signed_in()
    requests = order_requests(bench.population, _even(per_second * seconds), wait=10)
    found = await post_at(bench.population.port, requests, per_second)
    _check_confirmed(found)
    await _clear(bench)
    return quantiles(found.seconds)


async def sustained(bench: Bench, per_second: float, seconds: float, *, bearable: bool = True) -> dict[str, float]:
    """The same with the admin sweeping all along, and how many sagas still await an answer one second after the last post.

    Args:
        bearable: whether the rate is one at which every order is confirmed while its caller waits.
    """
    await bench.population.stay_signed_in()
    requests = order_requests(bench.population, _even(per_second * seconds), wait=10)
    started = time.perf_counter()
    async with sweeping(bench.population):
        found = await post_at(bench.population.port, requests, per_second)
        if bearable:
            _check_confirmed(found)
        await asyncio.sleep(1.0)
        awaiting = bench.watch.awaiting_sagas()
        await bench.watch.settled()
        # The second's pause counts only as far as it was needed: what is done by then was done at the last answer.
        settling = time.perf_counter() - started - (0.0 if awaiting else 1.0)
    await bench.watch.told()
    return {
        "per_second": round(per_second, 1),
        "seconds": seconds,
        "settled_per_second": round(len(requests) / settling, 1),
        **quantiles(found.seconds),
        "unconfirmed": found.unconfirmed,
        "sagas_awaiting_after_1_s": awaiting,
    }


def _check_confirmed(answered: Answered) -> None:
    if answered.unconfirmed:
        raise NotDone(f"{answered.unconfirmed} of {len(answered.seconds)} orders were not confirmed in time")


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Of sorted seconds, in milliseconds."""
    return {
        f"p{percent}_ms": round(1000 * seconds[min(len(seconds) - 1, len(seconds) * percent // 100)], 2)
        for percent in (50, 95, 99)
    }


async def _clear(bench: Bench) -> None:
    async with sweeping(bench.population):
        await bench.watch.settled()
    await bench.watch.told()


def _even(number: float) -> int:
    return 2 * round(number / 2)


def _per_order(before: dict[str, float], after: dict[str, float], orders: int) -> dict[str, float]:
    return {role: round(1000 * (after[role] - before[role]) / orders, 3) for role in before}


def _check(before: Totals, after: Totals, orders: int) -> None:
    matched, trades = after.matched - before.matched, after.settled_trades - before.settled_trades
    if (matched, trades) != (orders, orders // 2):
        raise NotDone(f"of {orders} orders {matched} are MATCHED, in {trades} settled trades")
