"""What was measured, as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

GOALS = {
    "settled_ratio": ("settled orders a second over T", 0.9),
    "full_trail_ratio": ("settled with audit and notifications stored, over T", 0.3),
    "accept_ratio": ("orders accepted over HTTP a second, over I", 0.4),
    "full_stack_ratio": ("posting and settling together, over T", 0.2),
    "sync_ratio": ("settled, synchronous_commit on over off", 0.9),
}


def table(found: dict[str, Any]) -> Iterator[str]:
    """Line by line. Ratios stand beside the project's goals."""
    yardsticks, counters = found["yardsticks"], found["counters"]
    yield f"T, transfers a second {yardsticks['transfer_tps']:>14,.0f}"
    yield f"I, inserts a second   {yardsticks['insert_tps']:>14,.0f}"
    yield ""
    yield f"{'ratio':<18} {'median':>7} {'goal':>5}"
    for name, (what, goal) in GOALS.items():
        yield f"{name:<18} {found[name]:>7.3f} {goal:>5} {what}"
    yield ""
    yield from _rounds(found["rounds"])
    yield ""
    yield from _latencies(found["latency"])
    yield ""
    yield f"per settled order, at a backlog of {counters['orders']:,} with its posts"
    yield f"  transactions  {counters['commits_per_order']:>10.3f}   bound 0.25"
    yield f"  messages      {counters['messages_per_order']:>10.3f}   bound 0.1"
    yield f"  WAL bytes     {counters['wal_bytes_per_order']:>10,}   bound 8,192"
    yield f"  HOT share     {counters['asset_hot_share']:>10.2f}   bound 0.5, of the updates of assets"
    for stage, statements in counters["statements_per_batch"].items():
        yield f"  statements    {statements:>10}   bound {9 if 'settlement' in stage else 6}, a batch of {stage}"
    yield ""
    yield from _processes(counters)
    yield ""
    yield from _reads(counters["reads"])
    if past := counters.get("with_a_past"):
        yield from _with_a_past(found, past)
    yield ""
    reconcile, audit = counters["reconcile"], counters["audit"]
    yield f"reconcile: {'clean' if reconcile['valid'] else 'BROKEN'}, {reconcile['rows']:,} rows examined"
    yield f"audit: {'verified' if audit['valid'] else 'NOT VALID'}, {audit['records']:,} records"


def _rounds(rounds: list[dict[str, Any]]) -> Iterator[str]:
    names = [name for name, value in rounds[0].items() if isinstance(value, float)]
    yield "round " + " ".join(f"{name:>10}" for name in names)
    for number, each in enumerate(rounds, 1):
        yield f"{number:>5} " + " ".join(f"{each[name]:>{max(10, len(name))},.0f}" for name in names)


def _latencies(latencies: dict[str, Any]) -> Iterator[str]:
    single = latencies["single_row_commit"]
    yield f"POST to ORDER_CONFIRMED, ms; a single-row commit's p99 is {single['p99_ms']:.2f} ms"
    for rate, times in latencies.items():
        if rate.isdigit():
            yield f"{_at(float(rate), times)}  (p99 is {times['p99_ms_over_commit_p99']:.0f} commits)"
    last = latencies["sustained"]
    yield (
        f"{_at(last['per_second'], last)}  for {last['seconds']:.0f} s with sweeps;"
        f" {last['sagas_awaiting_after_1_s']} sagas await an answer 1 s later"
    )
    for load in latencies.get("load", ()):
        yield (
            f"{_at(load['per_second'], load)}  settled {load['settled_per_second']:.0f}/s,"
            f" {load['unconfirmed']} not confirmed in time"
        )


def _at(per_second: float, times: dict[str, Any]) -> str:
    return f"  at {per_second:>4.0f}/s  p50 {times['p50_ms']:>6.0f}  p95 {times['p95_ms']:>6.0f}  p99 {times['p99_ms']:>6.0f}"


def _processes(counters: dict[str, Any]) -> Iterator[str]:
    cpu, memory = counters["cpu_ms_per_order"], counters["memory_mib"]
    yield f"{'process':<16} {'CPU ms per order':^24} {'PSS MiB':^16}"
    yield f"{'':<16} {'accept':>7} {'settle':>7} {'tell':>7}  {'rest':>7} {'load':>7}"
    for role in cpu["accept"]:
        times = " ".join(f"{cpu[stage][role]:>7.3f}" for stage in ("accept", "settle", "tell"))
        sizes = " ".join(f"{memory[when].get(role, 0):>7.0f}" for when in ("at_rest", "under_load"))
        yield f"{role:<16} {times}  {sizes}"
    totals = " ".join(f"{memory[when]['total']:>7.0f}" for when in ("at_rest", "under_load"))
    yield f"{'total':<16} {'':>23}  {totals}"


_READS = ("page_of_50_orders", "assets_of_a_customer", "audit_search")


def _reads(reads: list[dict[str, Any]]) -> Iterator[str]:
    for each in reads:
        yield f"reads at {each['orders']:,} orders"
        for name in _READS:
            pages = each[name].get("buffers")
            yield f"  {name.replace('_', ' '):<22} p50 {each[name]['p50_ms']:>6.1f} ms" + (
                f", {pages:.0f} buffers" if pages is not None else ""
            )
    if len(reads) > 1:
        first, last = reads[0], reads[-1]
        worst = max(last[name][figure] / first[name][figure] for name in _READS for figure in _compared(first[name]))
        yield f"  the worst figure grew to {worst:.2f} of what it was at {first['orders']:,}   bound 1.2"


def _with_a_past(found: dict[str, Any], past: dict[str, Any]) -> Iterator[str]:
    yield f"rounds at {past['orders']:,} orders, and over what they were before"
    for name in GOALS:
        yield f"  {name:<22} {past[name]:>10.3f}    {past[name] / found[name]:.2f}   bound 0.8"


def _compared(read: dict[str, Any]) -> list[str]:
    return [figure for figure in ("p50_ms", "buffers") if figure in read]
