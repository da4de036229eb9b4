"""The regression guard of the hot path: what an order costs, counted in the databases, and wide bounds on what it costs in time.

No bound is a time: a slow machine changes none of the counters, and slows the yardsticks and the peers as it slows us.
"""

import statistics
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
import uvloop
from sqlalchemy import func, select

from benchmarks.models import Asset, AuditLog, LedgerEntry, Notification, Order, Reservation, Trade
from benchmarks.peers import Dbos, Dramatiq, Peer
from infra.bench.load import watching
from infra.bench.pgbench import Yardsticks
from infra.bench.population import populate
from infra.bench.run import Profile, counted, ratios, round_of, warm_up
from infra.bench.stages import Bench
from infra.bench.system import BenchSystem

pytestmark = pytest.mark.alone

ROUND = Profile(rounds=2, orders=2_000, yardstick_seconds=2, latency_seconds=0, sustained_seconds=0)


@pytest.fixture(scope="module")
def system() -> Iterator[BenchSystem]:
    with BenchSystem() as found:
        yield found


@pytest.fixture(scope="module")
def measured(system: BenchSystem) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The counters and the rounds."""
    population = populate(system, customers=100)
    yardsticks = Yardsticks(system)

    async def measure(bench: Bench) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        await population.sign_in()
        await bench.watch.told()
        await warm_up(bench)
        counters = await counted(bench)
        return counters, [await round_of(bench, yardsticks, ROUND) for _ in range(ROUND.rounds)]

    with watching(system) as watch:
        return uvloop.run(measure(Bench(system, population, watch)))


@pytest.fixture(scope="module")
def counters(measured: Any) -> dict[str, Any]:
    found: dict[str, Any] = measured[0]
    return found


class TestCostOfAnOrder:
    """At a backlog of 2,000 orders, their posts included."""

    def test_broker_messages(self, counters: dict[str, Any]) -> None:
        assert 0 < counters["messages_per_order"] <= 0.1

    def test_updates_of_assets_in_place(self, counters: dict[str, Any]) -> None:
        assert counters["asset_hot_share"] >= 0.5

    def test_statements_of_a_batch(self, counters: dict[str, Any]) -> None:
        statements = counters["statements_per_batch"]
        assert statements.keys() >= {"asset_service", "asset_service settlement", "order_service", "processor"}
        bounds = {stage: 9 if stage.endswith("settlement") else 6 for stage in statements}
        assert {stage: number for stage, number in statements.items() if number > bounds[stage]} == {}


class TestRatios:
    """Half of each goal."""

    @pytest.mark.parametrize(("name", "least"), [("sync_ratio", 0.45)])
    def test_are_not_lost(self, measured: Any, name: str, least: float) -> None:
        assert ratios(measured[1])[name] >= least


@pytest.fixture(scope="module", params=[(Dramatiq, 30), (Dbos, 50)], ids=["dramatiq", "dbos"])
def peer(request: pytest.FixtureRequest, system: BenchSystem, measured: Any) -> Iterator[tuple[Peer, int]]:
    kind, goal = request.param
    with system.held(), kind(system) as peer:
        yield peer, goal


class TestPeers:
    """The peers do the whole saga, and are far slower."""

    def test_is_slower_by_a_quarter_of_the_goal_at_least(self, peer: tuple[Peer, int], measured: Any) -> None:
        theirs = peer[0].settled_per_second(200)
        ours = statistics.median(each["settled"] for each in measured[1])
        assert ours / theirs >= peer[1] / 4

    def test_writes_the_same_rows(self, peer: tuple[Peer, int]) -> None:
        with peer[0].session() as session:
            orders = session.scalar(select(func.count()).where(Order.status == "MATCHED"))
            assert orders
            assert session.scalar(select(func.count()).select_from(Trade)) == orders / 2
            assert session.scalar(select(func.count()).select_from(LedgerEntry)) == orders * 2
            assert session.scalar(select(func.count()).select_from(Notification)) == orders * 2
            assert session.scalar(select(func.count()).select_from(AuditLog)) == orders * 4.5
            assert session.scalar(select(func.sum(LedgerEntry.amount))) == 0
            assert session.scalar(select(func.count()).where(Reservation.status != "SETTLED")) == 0
            # All that was blocked was used.
            assert session.scalar(select(func.sum(Asset.size - Asset.usable_size))) == Decimal(0)
