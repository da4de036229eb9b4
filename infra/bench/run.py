"""The measurement from start to end."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvloop

from infra.bench.counters import count, per_order
from infra.bench.load import watching
from infra.bench.pgbench import Yardsticks
from infra.bench.population import populate
from infra.bench.stages import Bench, backlog, full_stack
from infra.bench.system import BenchSystem

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Profile:
    """How much is measured. Numbers of orders are even."""

    rounds: int
    orders: int
    yardstick_seconds: int


PROFILES = {
    "short": Profile(rounds=3, orders=10_000, yardstick_seconds=4),
    "full": Profile(rounds=5, orders=20_000, yardstick_seconds=10),
}


def measure(profile: Profile, say: Say) -> dict[str, Any]:
    """Start a system, measure it, end it.

    Returns:
        What `--json` prints.
    """
    with BenchSystem() as system:
        population = populate(system)
        yardsticks = Yardsticks(system)
        with watching(system) as watch:
            bench = Bench(system, population, watch)
            return uvloop.run(_measure(bench, yardsticks, profile, say))


async def _measure(bench: Bench, yardsticks: Yardsticks, profile: Profile, say: Say) -> dict[str, Any]:
    await bench.watch.told()
    await bench.population.sign_in()
    await bench.watch.told()
    await backlog(bench, 400)  # warms caches, pools and prepared statements
    counters = await _counted(bench, profile)
    say(f"counters {counters}")
    rounds = []
    for number in range(profile.rounds):
        rounds.append(await _round(bench, yardsticks, profile))
        say(f"round {number + 1} {rounds[-1]}")
    return {
        **_ratios(rounds),
        "yardsticks": {"transfer_tps": _median(rounds, "transfer"), "insert_tps": _median(rounds, "insert")},
        "latency": {},
        "counters": counters,
        "rounds": rounds,
    }


async def _counted(bench: Bench, profile: Profile) -> dict[str, Any]:
    before = await asyncio.to_thread(count, bench.system)
    await backlog(bench, profile.orders)
    after = await asyncio.to_thread(count, bench.system)
    return per_order(before, after, profile.orders)


async def _round(bench: Bench, yardsticks: Yardsticks, profile: Profile) -> dict[str, Any]:
    with bench.system.held():
        transfer = await asyncio.to_thread(yardsticks.transfer, profile.yardstick_seconds)
        insert = await asyncio.to_thread(yardsticks.insert, profile.yardstick_seconds)
    found = {"transfer": round(transfer, 1), "insert": round(insert, 1)}
    return found | await backlog(bench, profile.orders) | await full_stack(bench, profile.orders // 2)


def _ratios(rounds: list[dict[str, Any]]) -> dict[str, float]:
    over = {
        "settled_ratio": ("settled", "transfer"),
        "full_trail_ratio": ("told", "transfer"),
        "accept_ratio": ("accepted", "insert"),
        "full_stack_ratio": ("full_stack", "transfer"),
    }
    return {
        name: round(statistics.median(each[ours] / each[theirs] for each in rounds), 3)
        for name, (ours, theirs) in over.items()
    }


def _median(rounds: list[dict[str, Any]], name: str) -> float:
    found: float = statistics.median(each[name] for each in rounds)
    return round(found, 1)
