"""The regression guard of the hot path: what an order costs, counted in the databases. No noise of a machine touches it."""

from typing import Any

import pytest
import uvloop

from infra.bench.load import watching
from infra.bench.population import populate
from infra.bench.run import counted, warm_up
from infra.bench.stages import Bench
from infra.bench.system import BenchSystem


@pytest.fixture(scope="module")
def counters() -> dict[str, Any]:
    """At a backlog of 2,000 orders, their posts included."""

    async def count(bench: Bench) -> dict[str, Any]:
        await bench.population.sign_in()
        await bench.watch.told()
        await warm_up(bench)
        return await counted(bench)

    with BenchSystem() as system:
        population = populate(system, customers=100)
        with watching(system) as watch:
            return uvloop.run(count(Bench(system, population, watch)))


def test_transactions(counters: dict[str, Any]) -> None:
    assert 0 < counters["commits_per_order"] <= 0.25


def test_broker_messages(counters: dict[str, Any]) -> None:
    assert 0 < counters["messages_per_order"] <= 0.1


def test_updates_of_assets_in_place(counters: dict[str, Any]) -> None:
    assert counters["asset_hot_share"] >= 0.5


def test_statements_of_a_batch(counters: dict[str, Any]) -> None:
    statements = counters["statements_per_batch"]
    assert statements.keys() >= {"asset_service", "asset_service settlement", "order_service", "processor"}
    bounds = {stage: 9 if stage.endswith("settlement") else 6 for stage in statements}
    assert {stage: number for stage, number in statements.items() if number > bounds[stage]} == {}
