"""The regression guard of the hot path: wide bounds on what an order costs in time.

No bound is a time: a slow machine slows the yardsticks and the peers as it slows us. What is counted instead is in
`test_cost_of_an_order.py`.
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
from infra.bench.run import Profile, ratios, round_of, warm_up
from infra.bench.stages import Bench
from infra.bench.system import BenchSystem

pytestmark = pytest.mark.alone

ROUND = Profile(rounds=2, orders=2_000, yardstick_seconds=1, latency_seconds=0, sustained_seconds=0)


@pytest.fixture(scope="module")
def system() -> Iterator[BenchSystem]:
    with BenchSystem() as found:
        yield found


@pytest.fixture(scope="module")
def rounds(system: BenchSystem) -> list[dict[str, Any]]:
    population = populate(system, customers=100)
    yardsticks = Yardsticks(system)

    async def measure(bench: Bench) -> list[dict[str, Any]]:
        await population.sign_in()
        await bench.watch.told()
        await warm_up(bench)
        return [await round_of(bench, yardsticks, ROUND) for _ in range(ROUND.rounds)]

    with watching(system) as watch:
        return uvloop.run(measure(Bench(system, population, watch)))


class TestRatios:
    """Half of each goal."""

    @pytest.mark.parametrize(
        ("name", "least"), [("accept_ratio", 0.2), ("full_stack_ratio", 0.1), ("sync_ratio", 0.45)]
    )
    def test_are_not_lost(self, rounds: list[dict[str, Any]], name: str, least: float) -> None:
        assert ratios(rounds)[name] >= least


@pytest.fixture(scope="module", params=[(Dramatiq, 30, 200), (Dbos, 50, 100)], ids=["dramatiq", "dbos"])
def peer(request: pytest.FixtureRequest, system: BenchSystem, rounds: Any) -> Iterator[tuple[Peer, int, int]]:
    """One of them, how many times as fast we want to be, and how many orders it is given: some seconds' worth."""
    kind, goal, orders = request.param
    with system.held(), kind(system) as peer:
        yield peer, goal, orders


class TestPeers:
    """The peers do the whole saga, and are far slower."""

    def test_is_slower_by_a_quarter_of_the_goal_at_least(
        self, peer: tuple[Peer, int, int], rounds: list[dict[str, Any]]
    ) -> None:
        theirs = peer[0].settled_per_second(peer[2])
        ours = statistics.median(each["settled"] for each in rounds)
        assert ours / theirs >= peer[1] / 4

    def test_writes_the_same_rows(self, peer: tuple[Peer, int, int]) -> None:
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
