"""The pump is the broker of tests: what it moves arrives once, and what it cannot move stays."""

from reconcile_world import World

from shared.testing.pump import Pump


class TestPump:
    def test_draining_brings_an_order_to_rest_and_again_moves_nothing(self, world: World) -> None:
        buyer = world.customer(TRY="1000")
        order_id = world.order(buyer, "BUY", "1", "10", moved=False)
        assert world.pump.drain() > 0
        assert world.one("order_service", f"SELECT status FROM orders WHERE id = '{order_id}'") == "ORDER_CONFIRMED"
        assert world.pump.drain() == 0

    def test_messages_of_readers_that_are_not_there_wait(self, world: World) -> None:
        buyer = world.customer(TRY="1000")
        order_id = world.order(buyer, "BUY", "1", "10", moved=False)
        with Pump(world.environment, readers=("processor",)) as pump:
            pump.drain()
        status = f"SELECT status FROM orders WHERE id = '{order_id}'"
        assert world.one("order_service", status) == "PENDING_RESERVATION"
        # Their leases would run out by themselves.
        world.sql("processor", "UPDATE outbox_events SET lease_until = brokage_now() WHERE acked_at IS NULL")
        world.sql("order_service", "UPDATE outbox_events SET lease_until = brokage_now() WHERE acked_at IS NULL")
        world.pump.drain()
        assert world.one("order_service", status) == "ORDER_CONFIRMED"
        assert not any(examined.broken for examined in world.reconcile().values())
