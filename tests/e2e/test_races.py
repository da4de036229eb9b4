"""Requests that arrive at the same moment: one order, one winner, no more cash than there is."""

import random
import time
from collections import Counter
from decimal import Decimal
from typing import Any

from tests.e2e.system import FINAL, JUDGED, TERMS, System, together, wait_until

ROUNDS = 20


class TestCancelAgainstMatch:
    def test_exactly_one_wins_and_the_reserved_is_settled_or_back(self, system: System) -> None:
        buyer = system.customer(TRY="2000")
        orders = together([lambda: buyer.confirmed("BUY", "1", "100") for _ in range(ROUNDS)])
        assert buyer.balance("TRY") == (Decimal(2000), Decimal(0))
        # The match comes a little later each time, so that the rounds see both ends of the race.
        delays = random.Random(7).sample([number * 0.004 for number in range(ROUNDS)], ROUNDS)

        for order, delay in zip(orders, delays, strict=True):
            self._race(system, buyer, order["id"], delay)

        statuses = Counter(order["status"] for order in buyer.orders())
        assert statuses.keys() <= {"MATCHED", "CANCELED"}
        matched = statuses["MATCHED"]
        cash = Decimal(2000 - 100 * matched)
        assert buyer.balance("TRY") == (cash, cash)
        assert buyer.balance("AAPL") == (Decimal(matched), Decimal(matched))

    def _race(self, system: System, buyer: Any, order_id: str, delay: float) -> None:
        def match() -> Any:
            time.sleep(delay)
            return system.admin.match(order_id, wait=None)

        canceled, matched = together([lambda: buyer.cancel(order_id), match])
        assert canceled.status_code in (202, 409), canceled.text
        assert matched.status_code in (202, 409), matched.text
        order = wait_until(lambda: (found := buyer.order(order_id))["status"] in FINAL and found)
        if matched.status_code == 202:
            assert (order["status"], order["filled_size"]) == ("MATCHED", "1")
        else:
            assert matched.json()["code"] == "order-not-open"
            assert (order["status"], order["filled_size"]) == ("CANCELED", "0")
        assert buyer.history(order_id)[-1] == order["status"]


class TestManyAtOnce:
    def test_of_200_buys_against_cash_for_100_exactly_100_are_confirmed(self, system: System) -> None:
        buyer = system.customer(TRY="1000")
        placed = together([lambda: buyer.place("BUY", "1", "10", wait=None) for _ in range(200)])
        assert len({order["id"] for order in placed}) == 200

        wait_until(
            lambda: all(order["status"] in JUDGED for order in buyer.orders()), what="the judgement of 200 orders"
        )

        judged = Counter((order["status"], order["rejection_reason"]) for order in buyer.orders())
        assert judged == {("ORDER_CONFIRMED", None): 100, ("REJECTED", "INSUFFICIENT_BALANCE"): 100}
        assert buyer.balance("TRY") == (Decimal(1000), Decimal(0))
        active = [each for each in buyer.all("/api/reservations") if each["status"] == "ACTIVE"]
        assert len(active) == 100
        open_orders = [order["id"] for order in buyer.orders() if order["status"] == "ORDER_CONFIRMED"]
        together([lambda order_id=order_id: buyer.cancel(order_id) for order_id in open_orders])  # type: ignore[misc]
        system.wait_final([buyer])
        assert buyer.balance("TRY") == (Decimal(1000), Decimal(1000))

    def test_a_client_order_id_sent_50_times_at_once_is_one_order(self, system: System) -> None:
        buyer = system.customer(TRY="1000")
        body = {**TERMS, "order_side": "BUY", "size": "1", "price": "10", "client_order_id": "just-once"}
        answers = together([lambda: buyer.request("POST", "/api/orders", json=body) for _ in range(50)])
        assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 49}
        (order_id,) = {answer.json()["id"] for answer in answers}
        assert [order["id"] for order in buyer.orders()] == [order_id]
        wait_until(lambda: buyer.order(order_id)["status"] == "ORDER_CONFIRMED")
        assert buyer.balance("TRY") == (Decimal(1000), Decimal(990))

    def test_an_idempotency_key_sent_20_times_at_once_is_one_order(self, system: System) -> None:
        buyer = system.customer(TRY="1000")
        body = {**TERMS, "order_side": "BUY", "size": "1", "price": "10"}
        answers = together([lambda: buyer.request("POST", "/api/orders", key="once", json=body) for _ in range(20)])
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert {answer.json()["code"] for answer in answers if answer.status_code == 409} <= {"idempotency-key-in-use"}
        assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
        assert len(buyer.orders()) == 1

    def test_withdrawals_and_orders_at_once_never_take_more_than_there_is(self, system: System) -> None:
        customer = system.customer(TRY="100")

        def withdraw(number: int) -> Any:
            body = {"asset_name": "TRY", "amount": "10", "reference": f"rent-{number}"}
            answer = customer.request("POST", "/api/assets/withdraw", json=body)
            assert answer.status_code == 201 or answer.json()["code"] == "insufficient-funds", answer.text
            return answer.status_code == 201

        def place(number: int) -> Any:
            return customer.place("BUY", "1", "10")["status"] == "ORDER_CONFIRMED"

        works = [lambda number=number: (withdraw if number % 2 else place)(number) for number in range(30)]
        won = together(works)
        withdrawn, reserved = sum(won[1::2]), sum(won[0::2])
        assert withdrawn + reserved == 10
        assert customer.balance("TRY") == (Decimal(100 - 10 * withdrawn), Decimal(0))
