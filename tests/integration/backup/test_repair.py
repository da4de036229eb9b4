"""Stores that were restored to different moments, and what `repair` makes of them."""

from collections.abc import Iterator
from contextlib import contextmanager

from backup_world import broken, settle
from reconcile_world import World

from infra.backup import repair
from infra.backup.repair import Findings
from infra.reconcile.settings import Settings
from infra.reconcile.stores import Stores


def find(world: World) -> Findings:
    with Stores(world.environment, Settings()) as stores:
        return repair.find(stores)


def heal(world: World) -> list[str]:
    with Stores(world.environment, Settings()) as stores:
        left = repair.heal(stores, repair.find(stores))
    settle(world)
    return left


@contextmanager
def set_back(world: World, database: str) -> Iterator[None]:
    """As if only this database had been restored, to the moment at which the block begins."""
    assert world.servers.postgres is not None
    with world.servers.postgres.connect() as connection:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        owner = connection.execute(
            "SELECT rolname FROM pg_roles JOIN pg_database ON datdba = pg_roles.oid WHERE datname = %s", (database,)
        ).fetchone()
        assert owner is not None
        connection.execute(end, (database,))
        connection.execute(f"CREATE DATABASE {database}_then TEMPLATE {database} OWNER {owner[0]}")
        yield
        connection.execute(f"DROP DATABASE {database} WITH (FORCE)")
        connection.execute(f"ALTER DATABASE {database}_then RENAME TO {database}")


class TestNothingToDo:
    def test_stores_of_one_moment_go_together(self, world: World) -> None:
        assert find(world) == Findings()


class TestOrdersAreOlder:
    def test_orders_that_are_gone_end_and_what_they_blocked_is_free(self, world: World) -> None:
        customer_id = world.customer(TRY="1000", AAPL="20")
        standing, canceled_since = (world.order(customer_id, "BUY", "1", price) for price in ("5", "6"))
        with set_back(world, "brokage_orders"):
            gone = world.order(customer_id, "BUY", "2", "100")
            ended = world.order(customer_id, "SELL", "3", "100")
            world.cancel(ended)
            world.cancel(canceled_since)
        found = find(world)
        assert found.unknown_orders == {gone: customer_id, ended: customer_id}
        assert found.forgotten_cancels == [canceled_since]
        assert {reader for reader, _ in found.unsent} >= {"processor", "auditor"}
        assert {reader for reader, _ in found.unprocessed} == {"order_service"}
        assert broken(world) != {}
        assert heal(world) == []
        assert broken(world) == {}
        assert find(world) == Findings()
        assert usable(world, customer_id, "AAPL") == "20"
        assert status(world, canceled_since) == "CANCELED"
        world.cancel(standing)
        assert usable(world, customer_id, "TRY") == "1000"


class TestForAPerson:
    """Last, because nobody mends it here."""

    def test_an_order_that_has_traded_is_left_for_a_person(self, world: World) -> None:
        customer_id = world.customer(TRY="1000")
        with set_back(world, "brokage_orders"):
            order_id = world.order(customer_id, "BUY", "1", "10")
            trade_id = world.match(order_id)
        left = heal(world)
        assert left == [f"trade {trade_id} is SETTLED, but order_service does not know order {order_id}"]


def usable(world: World, customer_id: int, asset_name: str) -> str:
    statement = "SELECT trim_scale(usable_size)::text FROM assets WHERE customer_id = {} AND asset_name = '{}'"
    return str(world.one("asset_service", statement.format(customer_id, asset_name)))


def status(world: World, order_id: str) -> str:
    return str(world.one("order_service", f"SELECT status FROM orders WHERE id = '{order_id}'"))
