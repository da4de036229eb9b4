"""`python -m benchmarks`: ours and the peers in one run, interleaved, on the same servers."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from contextlib import ExitStack
from typing import Any

import uvloop

from benchmarks.peers import Dbos, Dramatiq, Peer
from infra.bench.load import watching
from infra.bench.population import populate
from infra.bench.stages import Bench, backlog
from infra.bench.system import BenchSystem

GOALS = {"dramatiq": 30, "dbos": 50}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--orders", type=int, default=6_000, help="of ours in a round")
    parser.add_argument("--peer-orders", type=int, default=400, help="of each peer in a round")
    options = parser.parse_args()
    found = measure(options.rounds, options.orders, options.peer_orders)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'settled orders a second':<26} {'median':>8}   ours is")
    print(f"{'brokage':<26} {found['ours']:>8,.0f}")
    for name, ratio in found["ratios"].items():
        print(f"{name:<26} {found['peers'][name]:>8,.1f}   {ratio:.0f} times as fast (goal {GOALS[name]})")


def measure(rounds: int, orders: int, peer_orders: int) -> dict[str, Any]:
    """Settled orders per second of each, and how many times as many ours settles."""
    with BenchSystem() as system, ExitStack() as stack:
        population = populate(system)
        peers: list[Peer] = []
        for kind in (Dramatiq, Dbos):
            print(f"starting {kind.name}", file=sys.stderr, flush=True)
            peers.append(stack.enter_context(kind(system)))
        with watching(system) as watch:
            found = uvloop.run(_rounds(Bench(system, population, watch), peers, rounds, orders, peer_orders))
    ours = statistics.median(found["ours"])
    medians = {peer.name: statistics.median(found[peer.name]) for peer in peers}
    ratios = {
        peer.name: round(statistics.median(a / b for a, b in zip(found["ours"], found[peer.name], strict=True)), 1)
        for peer in peers
    }
    return {"ours": ours, "peers": medians, "ratios": ratios, "rounds": found}


async def _rounds(
    bench: Bench, peers: list[Peer], rounds: int, orders: int, peer_orders: int
) -> dict[str, list[float]]:
    await bench.population.sign_in()
    await bench.watch.told()
    await backlog(bench, 400)
    found: dict[str, list[float]] = {"ours": [], **{peer.name: [] for peer in peers}}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        found["ours"].append((await backlog(bench, orders))["settled"])
        with bench.system.held():
            for peer in peers:
                rate = await asyncio.to_thread(peer.settled_per_second, peer_orders)
                found[peer.name].append(round(rate, 2))
    return found


if __name__ == "__main__":
    main()
