"""Requests that arrive at the same moment: one order, one winner, no more cash than there is."""

import random
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from shared.ids import new_id
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


class TestTwentyRounds:
    """What tests/races does with the use cases, over HTTP: a few contenders a round, and the same winner for everybody."""

    def test_of_all_who_match_an_order_one_does(self, system: System) -> None:
        buyer = system.customer(TRY="2000")
        orders = together([lambda: buyer.confirmed("BUY", "1", "100") for _ in range(ROUNDS)])
        for number, order in enumerate(orders):
            works = [lambda order=order: system.admin.match(order["id"], wait=None)] * (2 + number % 5)
            answers = together(works)
            assert sorted(answer.status_code for answer in answers) == [202, *[409] * (len(works) - 1)]
            assert {each.json()["code"] for each in answers if each.status_code == 409} == {"order-not-open"}
        system.wait_final([buyer])
        assert buyer.balance("TRY") == (Decimal(0), Decimal(0))
        assert len(buyer.all("/api/trades")) == ROUNDS

    def test_of_cancel_match_and_expiry_one_ends_an_order(self, system: System) -> None:
        """All of them meet in the second in which time runs out."""
        buyer = system.customer(TRY="2000")
        ends_at = datetime.now(UTC) + timedelta(seconds=6)
        terms = {"time_in_force": "GTD", "expires_at": ends_at.isoformat().replace("+00:00", "Z")}
        orders = together([lambda: buyer.confirmed("BUY", "1", "100", **terms) for _ in range(ROUNDS)])
        dice = random.Random(7)

        def at_the_end(work: Any, order: Any, late: float) -> Any:
            time.sleep(max(0.0, (ends_at - datetime.now(UTC)).total_seconds() + late))
            return work(order["id"])

        works = []
        for order in orders:
            match_late, cancel_late = dice.uniform(-0.3, 0.2), dice.uniform(-0.2, 0.6)
            works.append(lambda order=order, late=match_late: at_the_end(system.admin.match, order, late))
            works.append(lambda order=order, late=cancel_late: at_the_end(buyer.cancel, order, late))
        answers = together(works)
        assert {answer.status_code for answer in answers} <= {200, 202, 409}
        ended = Counter(order["status"] for order in system.wait_final([buyer]))
        assert sum(ended.values()) == ROUNDS
        assert ended.keys() <= {"MATCHED", "CANCELED", "EXPIRED"}
        matched = sum(answer.status_code == 202 for answer in answers[0::2])
        assert ended["MATCHED"] == matched == len(buyer.all("/api/trades"))
        cash = Decimal(2000 - 100 * matched)
        assert buyer.balance("TRY") == (cash, cash)

    def test_of_a_withdrawal_and_an_order_one_gets_the_last_unit(self, system: System) -> None:
        seller = system.customer(AAPL="1")

        def withdraw() -> bool:
            body = {"asset_name": "AAPL", "amount": "1", "reference": new_id()}
            return bool(seller.request("POST", "/api/assets/withdraw", json=body).status_code == 201)

        for _ in range(ROUNDS):
            withdrawn, first, second = together(
                [withdraw, lambda: seller.place("SELL", "1", "100"), lambda: seller.place("SELL", "1", "100")]
            )
            confirmed = [order for order in (first, second) if order["status"] == "ORDER_CONFIRMED"]
            assert withdrawn + len(confirmed) == 1
            if withdrawn:
                assert seller.balance("AAPL") == (Decimal(0), Decimal(0))
                system.admin.deposit(seller.id, "AAPL", "1")
            else:
                assert seller.balance("AAPL") == (Decimal(1), Decimal(0))
                assert seller.cancel(confirmed[0]["id"], wait=10).json()["status"] == "CANCELED"

    def test_a_client_order_id_and_a_key_are_one_order_each_time(self, system: System) -> None:
        buyer = system.customer(TRY="1000")
        body = {**TERMS, "order_side": "BUY", "size": "1", "price": "10"}
        for number in range(ROUNDS):
            named = {**body, "client_order_id": f"round-{number}"}
            works = [lambda named=named: buyer.request("POST", "/api/orders", json=named)] * 4
            works += [lambda key=f"round-{number}": buyer.request("POST", "/api/orders", key=key, json=body)] * 4
            answers = together(works)
            assert sorted(answer.status_code for answer in answers[:4]) == [200, 200, 200, 201]
            assert {answer.status_code for answer in answers[4:]} <= {201, 409}
            for part in (answers[:4], answers[4:]):
                assert len({answer.json()["id"] for answer in part if answer.status_code < 300}) == 1
        assert len(buyer.orders()) == 2 * ROUNDS

    def test_of_crosses_that_share_an_order_one_is_made(self, system: System) -> None:
        share = system.admin.add_instrument("RACE")
        buyer, seller = system.customer(TRY="2000"), system.customer(RACE="300")
        terms = {"asset_name": share}
        buys = together([lambda: buyer.confirmed("BUY", "1", "100", **terms) for _ in range(ROUNDS)])
        sells = together([lambda: seller.confirmed("SELL", "100", "90", **terms) for _ in range(3)])
        for buy in buys:

            def cross(sell: Any, buy: Any = buy) -> Any:
                body = {"buy_order_id": buy["id"], "sell_order_id": sell["id"], "size": "1"}
                return system.admin.request("POST", "/api/matching/crosses", key=new_id(), json=body)

            answers = together([lambda sell=sell: cross(sell) for sell in sells])
            assert sorted(answer.status_code for answer in answers) == [202, 409, 409]
        system.wait_final([buyer])
        assert len(buyer.all("/api/trades")) == ROUNDS
        assert buyer.balance(share) == (Decimal(ROUNDS), Decimal(ROUNDS))
