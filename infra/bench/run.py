"""The measurement from start to end."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

from infra.bench.counters import count, per_order
from infra.bench.fill import fill
from infra.bench.load import watching
from infra.bench.pgbench import Yardsticks
from infra.bench.population import populate
from infra.bench.processes import memory_mib
from infra.bench.reads import measure_reads
from infra.bench.stages import Bench, backlog, full_stack, latency, quantiles, sustained
from infra.bench.statements import logged, per_batch
from infra.bench.system import BenchSystem

Say = Callable[[str], None]
Round = dict[str, Any]

COUNTED_ORDERS = 2_000
"""The backlog at which the counters have their bounds: a larger one is cheaper for each order."""
WARM_UP_ORDERS = 400
RATE_NAMES = ("transfer", "insert", "accepted", "settled", "told", "full_stack", "settled_sync_off")
RATES = (20, 50, 200)
SUSTAINED_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Profile:
    """How much is measured.

    `orders`: of a round's backlog, even. `load_shares`: of the full-stack rate, each offered for `latency_seconds`.
    `reads_at`: reads are also measured at so many orders, before the rounds and, on a past that is filled by bulk load, at the end;
    then some rounds again.
    """

    rounds: int
    orders: int
    yardstick_seconds: int
    latency_seconds: float
    sustained_seconds: float
    load_shares: tuple[float, ...] = ()
    reads_at: tuple[int, int] | None = None


PROFILES = {
    "short": Profile(rounds=3, orders=4_000, yardstick_seconds=3, latency_seconds=6, sustained_seconds=6),
    "full": Profile(
        rounds=5,
        orders=20_000,
        yardstick_seconds=10,
        latency_seconds=30,
        sustained_seconds=60,
        load_shares=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1),
        reads_at=(10_000, 1_000_000),
    ),
}


def measure(profile: Profile, say: Say) -> dict[str, Any]:
    """Start a system, measure it, prove that it did what was counted, end it.

    Returns:
        What `--json` prints.
    """
    say("starting a system")
    with BenchSystem() as system:
        population = populate(system)
        yardsticks = Yardsticks(system)
        with watching(system) as watch:
            bench = Bench(system, population, watch)
            found = uvloop.run(_measure(bench, yardsticks, profile, say))
            say("reconcile and audit verify")
            found["counters"] |= _verified(system)
            if profile.reads_at is not None:
                say(f"reads and rounds at {profile.reads_at[1]:,} orders")
                fill(system, profile.reads_at[1])
                found["counters"] |= uvloop.run(_with_a_past(bench, yardsticks, profile, found["counters"]["reads"]))
    return found


async def _measure(bench: Bench, yardsticks: Yardsticks, profile: Profile, say: Say) -> dict[str, Any]:
    await bench.population.sign_in()
    await bench.watch.told()
    at_rest = memory_mib(bench.system.pids())
    await warm_up(bench)
    say(f"counting at a backlog of {COUNTED_ORDERS:,}")
    counters = await counted(bench)
    reads = []
    if profile.reads_at is not None:
        say(f"reads at {profile.reads_at[0]:,} orders")
        await backlog(bench, profile.reads_at[0] - bench.watch.totals().matched)
        reads.append(await _reads(bench))
    say("rounds")
    rounds = []
    for number in range(profile.rounds):
        rounds.append(await round_of(bench, yardsticks, profile))
        rates = ", ".join(f"{name} {rounds[-1][name]:,.0f}" for name in RATE_NAMES)
        say(f"round {number + 1} of {profile.rounds}: {rates}")
    say("latency")
    latencies = await _latencies(bench, yardsticks, profile)
    full_rate = _median(rounds, "full_stack")
    latencies["sustained"] = await sustained(bench, SUSTAINED_SHARE * full_rate, profile.sustained_seconds)
    if profile.load_shares:
        say("latency against load")
        latencies["load"] = [
            await sustained(bench, share * full_rate, profile.latency_seconds, bearable=False)
            for share in profile.load_shares
        ]
    say("reads")
    counters["reads"] = [*reads, await _reads(bench)]
    counters["memory_mib"] = _memory(at_rest, rounds, profile)
    return {
        **ratios(rounds),
        "yardsticks": {"transfer_tps": _median(rounds, "transfer"), "insert_tps": _median(rounds, "insert")},
        "latency": latencies,
        "counters": counters,
        "rounds": rounds,
    }


async def _with_a_past(
    bench: Bench, yardsticks: Yardsticks, profile: Profile, reads: list[dict[str, Any]]
) -> dict[str, Any]:
    """What `fill` has changed: one more of `reads`, and what rounds find now."""
    more = [await _reads(bench)]
    rounds = [await round_of(bench, yardsticks, profile) for _ in range((profile.rounds + 1) // 2)]
    return {"reads": reads + more, "with_a_past": {"orders": more[0]["orders"], **ratios(rounds), "rounds": rounds}}


async def _reads(bench: Bench) -> dict[str, Any]:
    await bench.population.stay_signed_in()
    return await measure_reads(bench.system, bench.population, bench.watch)


async def warm_up(bench: Bench) -> None:
    """Fill caches and pools, and let every statement be prepared."""
    await backlog(bench, WARM_UP_ORDERS)


async def counted(bench: Bench) -> dict[str, Any]:
    """What an order costs at a backlog of `COUNTED_ORDERS`, its post included, on a system that is warm."""
    before = await asyncio.to_thread(count, bench.system)
    found = await backlog(bench, COUNTED_ORDERS)
    after = await asyncio.to_thread(count, bench.system)
    with logged(bench.system) as lines:
        await backlog(bench, WARM_UP_ORDERS)
    return {
        **per_order(before, after, COUNTED_ORDERS),
        "statements_per_batch": per_batch(lines),
        "cpu_ms_per_order": found["cpu_ms_per_order"],
    }


async def round_of(bench: Bench, yardsticks: Yardsticks, profile: Profile) -> Round:
    """Each yardstick right beside what is divided by it, so that a machine that slows down slows both."""
    with bench.system.held():
        transfer = await asyncio.to_thread(yardsticks.transfer, profile.yardstick_seconds)
        insert = await asyncio.to_thread(yardsticks.insert, profile.yardstick_seconds)
    found: Round = {"transfer": round(transfer, 1), "insert": round(insert, 1)}
    found |= await backlog(bench, profile.orders)
    bench.system.set_synchronous_commit(False)
    try:
        found["settled_sync_off"] = (await backlog(bench, profile.orders))["settled"]
    finally:
        bench.system.set_synchronous_commit(True)
    return found | await full_stack(bench, profile.orders // 2)


async def _latencies(bench: Bench, yardsticks: Yardsticks, profile: Profile) -> dict[str, Any]:
    with bench.system.held():
        commits = await asyncio.to_thread(yardsticks.commit_seconds, 2)
    single = quantiles(commits)
    found: dict[str, Any] = {"single_row_commit": single}
    for rate in RATES:
        times = await latency(bench, rate, profile.latency_seconds)
        multiples = {f"{name}_over_commit_p99": round(value / single["p99_ms"], 1) for name, value in times.items()}
        found[str(rate)] = times | multiples
    return found


def ratios(rounds: Sequence[Round]) -> dict[str, float]:
    over = {
        "settled_ratio": ("settled", "transfer"),
        "full_trail_ratio": ("told", "transfer"),
        "accept_ratio": ("accepted", "insert"),
        "full_stack_ratio": ("full_stack", "transfer"),
        "sync_ratio": ("settled", "settled_sync_off"),
    }
    return {
        name: round(statistics.median(each[ours] / each[theirs] for each in rounds), 3)
        for name, (ours, theirs) in over.items()
    }


def _memory(at_rest: Mapping[str, float], rounds: Sequence[Round], profile: Profile) -> dict[str, Any]:
    loaded = [each["memory_mib"] for each in rounds]
    under_load = {role: max(each[role] for each in loaded) for role in at_rest}
    return {
        "at_rest": {**at_rest, "total": round(sum(at_rest.values()), 1)},
        "under_load": {**under_load, "total": round(max(sum(each.values()) for each in loaded), 1)},
        "growth_per_10k_orders": {role: _growth([each[role] for each in loaded], profile) for role in at_rest},
    }


def _growth(sizes: Sequence[float], profile: Profile) -> float:
    """By which it grew from the middle round to the last; before, caches fill."""
    first = len(sizes) // 2
    # Between two full stacks lie two backlogs and one of half the size.
    orders = (len(sizes) - 1 - first) * 2.5 * profile.orders
    return round(10_000 * (sizes[-1] - sizes[first]) / orders, 2) if orders else 0.0


def _median(rounds: Sequence[Round], name: str) -> float:
    found: float = statistics.median(each[name] for each in rounds)
    return round(found, 1)


def _verified(system: BenchSystem) -> dict[str, Any]:
    reconciled = system.command("reconcile")
    trail = system.command("audit", "verify")
    return {
        "reconcile": {
            "valid": reconciled["valid"],
            "rows": sum(each["rows"] for each in reconciled["invariants"]),
            "broken": [each for each in reconciled["invariants"] if not each["valid"]],
        },
        "audit": {"valid": trail["valid"], "records": trail["records"]},
    }
