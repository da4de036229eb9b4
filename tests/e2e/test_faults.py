"""The broker emptied and processes killed while customers trade: every order still ends, nothing is lost or doubled."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import redis

from shared.ids import new_id
from tests.e2e.system import FINAL, System, User, wait_until

CUSTOMERS = 4
ORDERS_EACH = 25
CASH, SHARES = Decimal(100_000), Decimal(1_000)


class Traffic:
    """Customers who buy and sell one share among themselves at prices that cross, and an admin who matches."""

    def __init__(self, system: System, asset_name: str) -> None:
        self._system = system
        self._asset_name = system.admin.add_instrument(asset_name)
        self.customers = [system.customer(TRY=str(CASH), **{asset_name: str(SHARES)}) for _ in range(CUSTOMERS)]
        self.client_order_ids: list[str] = []

    def run(self, disturb: Callable[[], None]) -> None:
        """Place all orders, `disturb` while they are on their way, and match until every order is final."""
        stop = threading.Event()
        with ThreadPoolExecutor(CUSTOMERS + 1) as pool:
            matching = pool.submit(self._match, stop)
            placing = [pool.submit(self._trade, customer, number) for number, customer in enumerate(self.customers)]
            try:
                disturb()
                for each in placing:
                    each.result()
                self._cancel_what_is_left()
            finally:
                stop.set()
            matching.result()

    def _trade(self, customer: User, number: int) -> None:
        for turn in range(ORDERS_EACH):
            side, price = ("BUY", "11") if (number + turn) % 2 else ("SELL", "10")
            client_order_id = new_id()
            # Sent twice, as one does who lost the answer.
            for _ in range(2):
                customer.place(
                    side,
                    str(1 + turn % 3),
                    price,
                    asset_name=self._asset_name,
                    client_order_id=client_order_id,
                    wait=None,
                )
            self.client_order_ids.append(client_order_id)
            time.sleep(0.04)

    def _match(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._system.admin.run_matching(self._asset_name)
            stop.wait(0.2)

    def _cancel_what_is_left(self) -> None:
        """Orders that found no partner in time are taken back."""
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline and self._open_orders():
            time.sleep(0.3)
        for customer, order_id in self._open_orders():
            customer.cancel(order_id)
        self._system.wait_final(self.customers)

    def _open_orders(self) -> list[tuple[User, str]]:
        return [
            (customer, order["id"])
            for customer in self.customers
            for order in customer.orders()
            if order["status"] not in FINAL
        ]

    def assert_nothing_lost_or_doubled(self) -> None:
        orders = [order for customer in self.customers for order in customer.orders()]
        assert sorted(order["client_order_id"] for order in orders) == sorted(self.client_order_ids)
        assert {order["status"] for order in orders} <= {"MATCHED", "CANCELED"}
        filled = sum(Decimal(order["filled_size"]) for order in orders)
        assert filled > 0
        # As the admin sees them: a customer sees only his own side.
        trades = self._system.admin.all("/api/trades", asset_name=self._asset_name)
        assert {trade["status"] for trade in trades} == {"SETTLED"}
        # Each trade fills a buyer and a seller among these customers.
        assert 2 * sum(Decimal(trade["size"]) for trade in trades) == filled
        for customer in self.customers:
            self._assert_balances_follow_from_trades(customer, {order["id"] for order in customer.orders()}, trades)

    def _assert_balances_follow_from_trades(
        self, customer: User, order_ids: set[str], trades: list[dict[str, Any]]
    ) -> None:
        cash, shares = CASH, SHARES
        for trade in trades:
            size, notional = Decimal(trade["size"]), Decimal(trade["size"]) * Decimal(trade["price"])
            if trade["buy_order_id"] in order_ids:
                cash, shares = cash - notional, shares + size
            if trade["sell_order_id"] in order_ids:
                cash, shares = cash + notional, shares - size
        assert customer.balance("TRY") == (cash, cash)
        assert customer.balance(self._asset_name) == (shares, shares)

    def assert_told_once(self) -> None:
        """Once per event of an order and customer."""
        for customer in self.customers:
            for order in customer.orders():
                last = f"ORDER_{order['status']}"
                types = wait_until(
                    lambda customer=customer, order=order, last=last: (
                        (  # type: ignore[misc]
                            found := [each["type"] for each in customer.notifications_of(order["id"])]
                        )
                        and last in found
                        and found
                    ),
                    what=f"{last} of {order['id']}",
                )
                assert types.count(last) == 1, types
                assert types.count("ORDER_CONFIRMED") <= 1, types


class TestBroker:
    def test_valkey_is_emptied_while_customers_trade(self, system: System) -> None:
        traffic = Traffic(system, "FLUSHED")
        valkey = redis.Redis.from_url(system.urls["redis"])

        def flush() -> None:
            for _ in range(4):
                time.sleep(0.3)
                valkey.flushall()

        traffic.run(flush)
        valkey.close()
        traffic.assert_nothing_lost_or_doubled()
        traffic.assert_told_once()


class TestProcesses:
    def test_worker_and_relay_are_killed_while_customers_trade(self, system: System) -> None:
        traffic = Traffic(system, "KILLED")
        before = {role: system.pid(role) for role in ("worker", "relay")}

        def kill() -> None:
            time.sleep(0.4)
            system.kill("worker")
            time.sleep(0.3)
            system.kill("relay")
            wait_until(lambda: system.is_ready("worker") and system.pid("worker") != before["worker"], 15)
            system.kill("worker")

        traffic.run(kill)
        wait_until(lambda: system.is_ready("worker") and system.is_ready("relay"), 15)
        assert all(system.pid(role) != pid for role, pid in before.items())
        traffic.assert_nothing_lost_or_doubled()
        traffic.assert_told_once()
