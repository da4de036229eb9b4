"""Orders in the archive, and those deleted with it, are no finding and nothing to repair."""

import pytest
from reconcile_world import IMPATIENT, World

from infra.backup import repair
from infra.reconcile.stores import Stores
from order_service.service.archiving import archive_due_orders, delete_old_months
from order_service.settings import Settings


@pytest.fixture(scope="module")
def archived(world: World) -> list[str]:
    """Orders with and without fills that are in the archive: matched, canceled after a fill, rejected."""
    buyer, seller = world.customer(TRY="100000"), world.customer(AAPL="1000")
    matched = world.order(buyer, "BUY", "10", "20.05")
    world.match(matched)
    partly = world.order(seller, "SELL", "8", "18")
    world.match(partly, "2.5")
    world.cancel(partly)
    rejected = world.order(buyer, "BUY", "1000000", "10")
    orders = [matched, partly, rejected]
    names = ", ".join(f"'{order_id}'" for order_id in orders)
    world.sql("order_service", f"UPDATE orders SET closed_at = closed_at - interval '91 days' WHERE id IN ({names})")
    archive_due_orders(world.databases["order_service"], settings(world))
    world.pump.drain()
    return orders


def settings(world: World) -> Settings:
    return Settings(orders_database_url=world.environment["BROKAGE_ORDERS_DATABASE_URL"])


def findings(world: World) -> dict[int, list[str]]:
    found = world.reconcile()
    return {
        number: [f"{finding.row}: {finding.reason}" for finding in examined.findings]
        for number, examined in found.items()
        if examined.findings
    }


def unknown(world: World) -> tuple[dict[str, int], list[str], list[str]]:
    with Stores(world.environment, IMPATIENT) as stores:
        found = repair.find(stores)
    return found.unknown_orders, found.forgotten_cancels, found.for_a_person


class TestArchived:
    def test_everything_is_in_order(self, world: World, archived: list[str]) -> None:
        assert world.one("order_service", "SELECT count(*) FROM archived_orders") == len(archived)
        assert findings(world) == {}

    def test_there_is_nothing_to_repair(self, world: World, archived: list[str]) -> None:
        assert unknown(world) == ({}, [], [])

    def test_each_is_in_the_trail_once(self, world: World, archived: list[str]) -> None:
        with world.documents("auditor") as database:
            records = list(database["audit_logs"].find({"action": "OrderArchived"}))
        assert sorted(record["entity_id"] for record in records) == sorted(archived)

    @pytest.mark.parametrize(
        ("invariant", "change", "says"),
        [
            (7, "DELETE FROM archived_order_history WHERE order_id = '{id}' AND seq = 3", "its history has gaps"),
            (7, "UPDATE archived_orders SET final_status = 'CANCELED' WHERE id = '{id}'", "it is CANCELED"),
            (6, "UPDATE archived_orders SET filled_size = 9 WHERE id = '{id}'", "its filled_size is 9"),
        ],
    )
    def test_what_is_broken_there_is_found(
        self, world: World, archived: list[str], invariant: int, change: str, says: str
    ) -> None:
        copies = ("archived_orders", "archived_order_history")
        before = [f"CREATE TABLE kept_{table} AS SELECT * FROM {table}" for table in copies]
        after = [
            statement
            for table in copies
            for statement in (
                f"DELETE FROM {table}",
                f"INSERT INTO {table} SELECT * FROM kept_{table}",
                f"DROP TABLE kept_{table}",
            )
        ]
        with world.broken("order_service", [*before, change.format(id=archived[0])], after):
            found = findings(world)
        assert any(f"order {archived[0]}" in each and says in each for each in found[invariant]), found


class TestDeleted:
    """After the others: they are gone then."""

    def test_others_may_still_speak_of_them(self, world: World, archived: list[str]) -> None:
        database = world.databases["order_service"]
        world.sql("order_service", "UPDATE clock_offset SET value = '100 days'")
        try:
            assert delete_old_months(database, 1) == len(archived)
        finally:
            world.sql("order_service", "UPDATE clock_offset SET value = '0'")
        assert world.one("order_service", "SELECT count(*) FROM archived_orders") == 0
        assert findings(world) == {}
        assert unknown(world) == ({}, [], [])
