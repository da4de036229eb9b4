"""Stores that were restored to different moments, and what `repair` makes of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from backup_world import broken, command, settle
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


LOST = {
    "notifier": ("processed_events", "notifications", "principals", "recipient_contacts"),
    "auditor": ("processed_events", "audit_logs", "audit_head", "principals"),
}


def set_documents_back(world: World, reader: str) -> None:
    """As if only this reader had been restored, to the moment at which everything began."""
    with world.documents(reader) as documents:
        for name in LOST[reader]:
            documents[name].delete_many({})


class TestDocumentsAreOlder:
    @pytest.mark.parametrize("reader", ["notifier", "auditor"])
    def test_what_a_reader_has_lost_is_said_again(self, world: World, reader: str) -> None:
        customer_id = world.customer(TRY="1000")
        world.cancel(world.order(customer_id, "BUY", "1", "10"))
        set_documents_back(world, reader)
        assert {each for each, _ in find(world).unprocessed} == {reader}
        assert broken(world) != {}
        assert heal(world) == []
        assert broken(world) == {}
        assert find(world) == Findings()

    def test_what_no_outbox_has_any_more_is_told_from_the_trail(self, world: World) -> None:
        customer_id = world.customer(TRY="1000")
        with set_back(world, "brokage_orders"):
            world.cancel(world.order(customer_id, "BUY", "1", "10"))
        assert heal(world) == []
        world.sql("asset_service", f"DELETE FROM outbox_events WHERE {OF_YESTERDAY.format(customer_id)}")
        before = told(world, customer_id)
        assert set(before) == {"OrderConfirmed", "OrderCanceled", "FundsDeposited"}
        set_documents_back(world, "notifier")
        assert len(find(world).untold) >= len(before)
        assert heal(world) == []
        assert told(world, customer_id) == before
        assert broken(world) == {}
        assert find(world) == Findings()


class TestCustomersAreOlder:
    def test_who_is_gone_is_named_and_his_id_is_never_anothers(self, world: World) -> None:
        known = world.customer(TRY="1000")
        with set_back(world, "brokage_customers"):
            gone = [world.customer(TRY="1000"), world.customer()]
        assert find(world).unknown_customers == gone
        assert heal(world) == [f"customer {id} is not known to customer_service" for id in gone]
        assert world.customer() > gone[-1] > known
        assert broken(world) == {}


class TestForAPerson:
    """Last, because nobody mends it here."""

    def test_an_order_that_has_traded_is_left_for_a_person(self, world: World) -> None:
        customer_id = world.customer(TRY="1000")
        with set_back(world, "brokage_orders"):
            order_id = world.order(customer_id, "BUY", "1", "10")
            trade_id = world.match(order_id)
        said = f"trade {trade_id} is SETTLED, but order_service does not know order {order_id}"
        looked = command("repair", "--dry-run", **world.environment)
        assert (looked.returncode, looked.stderr) == (1, "")
        assert f"for a person: {said}" in looked.stdout.splitlines()
        assert looked.stdout.splitlines()[-1] == "nothing was changed"
        healed = command("repair", "--json", **world.environment)
        assert (healed.returncode, healed.stderr) == (1, "")
        assert said in json.loads(healed.stdout)["for_a_person"]

    def test_without_a_system_there_is_nothing_to_repair(self, tmp_path: Path) -> None:
        done = command("repair", "--data-dir", str(tmp_path))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


OF_YESTERDAY = "destination = 'notifier' AND payload::text LIKE '%\"customer_id\":{},%'"


def told(world: World, customer_id: int) -> dict[str, str]:
    """What the customer was told, by the type of the event; each once."""
    with world.documents("notifier") as documents:
        found = list(documents["notifications"].find({"customer_id": customer_id}))
    texts = {each["event_type"]: each["message"] for each in found}
    assert len(texts) == len(found)
    return texts


def usable(world: World, customer_id: int, asset_name: str) -> str:
    statement = "SELECT trim_scale(usable_size)::text FROM assets WHERE customer_id = {} AND asset_name = '{}'"
    return str(world.one("asset_service", statement.format(customer_id, asset_name)))


def status(world: World, order_id: str) -> str:
    return str(world.one("order_service", f"SELECT status FROM orders WHERE id = '{order_id}'"))
