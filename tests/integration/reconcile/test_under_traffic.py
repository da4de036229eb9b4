"""A running system is never quite at rest; that alone is no finding."""

import threading
import time

from reconcile_world import IMPATIENT, World

from infra.reconcile.settings import Settings
from processor.models import saga_instances

PATIENT = Settings(grace_seconds=0.2, delivery_seconds=60.0)


def test_what_a_message_on_its_way_will_mend_is_no_finding(world: World) -> None:
    buyer, seller = world.customer(TRY="1000"), world.customer(AAPL="10")
    buy, sell = world.order(buyer, "BUY", "5", "10"), world.order(seller, "SELL", "5", "10")
    try:
        world.cross(buy, sell, "2", moved=False)
        world.order(buyer, "BUY", "1", "10", moved=False)
        world.cancel(sell, moved=False)
        found = world.reconcile(PATIENT)
    finally:
        world.pump.drain()
    assert {number: examined.findings for number, examined in found.items() if examined.broken} == {}
    assert sum(examined.moving for examined in found.values()) > 0
    assert not any(examined.broken or examined.moving for examined in world.reconcile().values())


def test_what_comes_to_rest_within_the_grace_is_no_finding(world: World) -> None:
    buyer = world.customer(TRY="1000")
    world.cancel(world.order(buyer, "BUY", "1", "10"), moved=False)
    soon = threading.Timer(0.3, world.pump.drain)
    soon.start()
    found = world.reconcile(Settings(grace_seconds=5.0, delivery_seconds=60.0))
    soon.join()
    assert not any(examined.broken or examined.moving for examined in found.values())


def test_orders_trades_and_cancels_in_the_middle_of_it_are_no_findings(world: World) -> None:
    """As much traffic as one process makes, while everything is examined again and again."""
    buyer, seller = world.customer(TRY="100000"), world.customer(AAPL="1000")
    stop = threading.Event()
    errors: list[BaseException] = []

    def trade() -> None:
        try:
            while not stop.is_set():
                buy, sell = world.order(buyer, "BUY", "3", "10"), world.order(seller, "SELL", "3", "9")
                world.cross(buy, sell, "1")
                world.cancel(buy)
                world.cross(world.order(buyer, "BUY", "2", "9"), sell)
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=trade)
    thread.start()
    try:
        runs = 0
        until = time.monotonic() + 4.0
        while time.monotonic() < until or not runs:
            runs += 1
            found = world.reconcile(PATIENT)
            assert {number: examined.findings for number, examined in found.items() if examined.broken} == {}
    finally:
        stop.set()
        thread.join()
        world.pump.drain()
    assert errors == []
    assert not any(examined.broken for examined in world.reconcile().values())


def test_an_order_whose_saga_never_began_is_found_once_nothing_is_on_its_way(world: World) -> None:
    buyer = world.customer(TRY="1000")
    order_id = world.order(buyer, "BUY", "1", "10")
    stored = ", ".join(column.name for column in saga_instances.columns if column.computed is None)
    keep = f"CREATE TABLE kept AS SELECT * FROM saga_instances WHERE saga_id = '{order_id}'"
    remove = f"DELETE FROM saga_instances WHERE saga_id = '{order_id}'"
    with world.broken(
        "processor",
        [keep, remove],
        [f"INSERT INTO saga_instances ({stored}) SELECT {stored} FROM kept", "DROP TABLE kept"],
    ):
        found = world.reconcile(IMPATIENT)
    assert [number for number, examined in found.items() if examined.broken] == [7]
    assert {(finding.row, finding.reason) for finding in found[7].findings} == {
        (f"order {order_id}", "it is ORDER_CONFIRMED, its reservation ACTIVE, its saga NONE"),
        (f"order {order_id}", "it is still in the queue, its saga missing"),
    }


def test_findings_are_counted_all_and_named_up_to_a_bound(world: World) -> None:
    few = Settings(grace_seconds=0.2, delivery_seconds=0.0, findings_max=2)
    total = world.one("asset_service", "SELECT count(*) FROM assets")
    with world.broken(
        "asset_service",
        ["UPDATE assets SET size = size + 1, usable_size = usable_size + 1"],
        ["UPDATE assets SET size = size - 1, usable_size = usable_size - 1"],
    ):
        found = world.reconcile(few)
    assert [number for number, examined in found.items() if examined.broken] == [3]
    assert (found[3].broken, len(found[3].findings)) == (total, 2)
