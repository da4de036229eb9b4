"""The regression guard of the hot path: what an order costs, counted in the databases, and wide bounds on what it costs in time.

No bound is a time: a slow machine changes none of the counters, and slows the yardsticks as it slows us.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from infra.bench.load import watching
from infra.bench.pgbench import Yardsticks
from infra.bench.population import populate
from infra.bench.run import Profile, counted, ratios, round_of, warm_up
from infra.bench.stages import Bench
from infra.bench.system import BenchSystem

ROUND = Profile(rounds=2, orders=2_000, yardstick_seconds=2, latency_seconds=0, sustained_seconds=0)


@dataclass(frozen=True)
class Found:
    counters: dict[str, Any]
    ratios: dict[str, float]


@pytest.fixture(scope="module")
def found() -> Iterator[Found]:
    with BenchSystem() as system:
        population = populate(system, customers=100)
        yardsticks = Yardsticks(system)

        async def measure(bench: Bench) -> Found:
            await population.sign_in()
            await bench.watch.told()
            await warm_up(bench)
            counters = await counted(bench)
            return Found(counters, ratios([await round_of(bench, yardsticks, ROUND) for _ in range(ROUND.rounds)]))

        with watching(system) as watch:
            yield uvloop.run(measure(Bench(system, population, watch)))


class TestCostOfAnOrder:
    """At a backlog of 2,000 orders, their posts included."""

    def test_transactions(self, found: Found) -> None:
        assert found.counters["commits_per_order"] <= 0.25

    def test_broker_messages(self, found: Found) -> None:
        assert 0 < found.counters["messages_per_order"] <= 0.1

    def test_log_written(self, found: Found) -> None:
        assert found.counters["wal_bytes_per_order"] <= 8192

    def test_updates_of_assets_in_place(self, found: Found) -> None:
        assert found.counters["asset_hot_share"] >= 0.5

    def test_statements_of_a_batch(self, found: Found) -> None:
        statements = found.counters["statements_per_batch"]
        assert statements.keys() >= {"asset_service", "asset_service settlement", "order_service", "processor"}
        over = {
            stage: number for stage, number in statements.items() if number > (9 if stage.endswith("settlement") else 6)
        }
        assert over == {}
