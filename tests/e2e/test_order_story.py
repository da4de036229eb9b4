"""An order from its acceptance to settled, notified and audited, over HTTP."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from shared.ids import new_id
from tests.e2e.system import System, User, wait_until


def ledger_of(user: User, trade_id: str) -> dict[str, Decimal]:
    """What a trade moved on the accounts of `user`, by asset."""
    entries = user.all("/api/ledger/entries", tx_ref=f"trade:{trade_id}", customer_id=user.id)
    return {entry["asset_name"]: Decimal(entry["amount"]) for entry in entries}


def audited(system: System, order_id: str) -> list[dict[str, Any]]:
    """The records of an order, from the first."""
    records = system.auditor.all("/api/audit/logs", entity_type="order", entity_id=order_id)
    return sorted(records, key=lambda record: record["seq"])


class TestFromOrderToSettled:
    def test_both_sides_are_paid_told_and_audited(self, system: System) -> None:
        buyer, seller = system.customer(TRY="1000"), system.customer(AAPL="10")
        buy = buyer.confirmed("BUY", "4", "50")
        assert buyer.balance("TRY") == (Decimal(1000), Decimal(800))
        sell = seller.confirmed("SELL", "4", "50")
        assert seller.balance("AAPL") == (Decimal(10), Decimal(6))

        trade = system.admin.cross(buy, sell)

        assert (trade["size"], trade["price"]) == ("4", "50")
        wait_until(lambda: all(user.orders()[0]["status"] == "MATCHED" for user in (buyer, seller)))
        assert buyer.balance("TRY") == (Decimal(800), Decimal(800))
        assert buyer.balance("AAPL") == (Decimal(4), Decimal(4))
        assert seller.balance("TRY") == (Decimal(200), Decimal(200))
        assert seller.balance("AAPL") == (Decimal(6), Decimal(6))
        assert ledger_of(buyer, trade["id"]) == {"TRY": Decimal(-200), "AAPL": Decimal(4)}
        assert ledger_of(seller, trade["id"]) == {"TRY": Decimal(200), "AAPL": Decimal(-4)}
        for user, order in ((buyer, buy), (seller, sell)):
            self._assert_order_is_settled(user, order["id"])
            self._assert_told(user, order["id"])
            self._assert_audited(system, user, order["id"])

    def _assert_order_is_settled(self, user: User, order_id: str) -> None:
        order = user.order(order_id)
        assert (order["filled_size"], order["remaining_size"], order["average_price"]) == ("4", "0", "50")
        steps = ["CREATED", "PENDING_RESERVATION", "ASSET_RESERVED", "ORDER_CONFIRMED", "MATCHED"]
        assert [status for status in user.history(order_id) if status in steps] == user.history(order_id)
        assert user.history(order_id)[-1] == "MATCHED"
        (reservation,) = user.all("/api/reservations", order_id=order_id)
        assert (reservation["status"], reservation["remaining"]) == ("SETTLED", "0")

    def _assert_told(self, user: User, order_id: str) -> None:
        told = wait_until(lambda: len(user.notifications_of(order_id)) >= 2 and user.notifications_of(order_id))
        types = [each["type"] for each in told]
        assert sorted(types) == ["ORDER_CONFIRMED", "ORDER_MATCHED"]
        (matched,) = [each for each in told if each["type"] == "ORDER_MATCHED"]
        assert matched["read_status"] == "UNREAD"
        assert matched["channels"]["in_app"]["status"] == "DELIVERED"
        assert user.request("POST", f"/api/notifications/{matched['id']}/read").status_code == 204
        assert {each["read_status"] for each in user.notifications_of(order_id)} == {"UNREAD", "READ"}

    def _assert_audited(self, system: System, user: User, order_id: str) -> None:
        # From two services, whose records come on ways of their own: either may be the last.
        wanted = {"AssetReserved", "OrderMatched"}
        wait_until(lambda: wanted <= {record["action"] for record in audited(system, order_id)})
        records = audited(system, order_id)
        assert [record["action"] for record in records if record["action"].startswith("Order")] == [
            "OrderCreated",
            "OrderConfirmed",
            "OrderMatched",
        ]
        by_action = {record["action"]: record for record in records}
        created, matched = by_action["OrderCreated"], by_action["OrderMatched"]
        assert (created["user_id"], created["role"]) == (user.id, "CUSTOMER")
        assert (matched["user_id"], matched["role"]) == (system.admin.id, "ADMIN")
        assert matched["new_value"]["status"] == "MATCHED"

    def test_a_partial_fill_leaves_the_rest_open_and_reserved(self, system: System) -> None:
        buyer, seller = system.customer(TRY="1000"), system.customer(AAPL="10")
        buy, sell = buyer.confirmed("BUY", "10", "20"), seller.confirmed("SELL", "3", "20")
        system.admin.cross(buy, sell)
        wait_until(lambda: seller.order(sell["id"])["status"] == "MATCHED")
        order = wait_until(lambda: (found := buyer.order(buy["id"]))["status"] == "PARTIALLY_MATCHED" and found)
        assert (order["filled_size"], order["remaining_size"]) == ("3", "7")
        assert buyer.balance("TRY") == (Decimal(940), Decimal(800))
        assert buyer.balance("AAPL") == (Decimal(3), Decimal(3))

        answer = buyer.cancel(buy["id"], wait=10)

        assert (answer.status_code, answer.json()["status"]) == (202, "CANCELED")
        assert answer.json()["filled_size"] == "3"
        assert buyer.balance("TRY") == (Decimal(940), Decimal(940))

    def test_what_is_open_when_its_time_is_over_comes_back(self, system: System) -> None:
        buyer = system.customer(TRY="1000")
        end = datetime.now(UTC) + timedelta(seconds=4)
        order = buyer.confirmed("BUY", "10", "20", time_in_force="GTD", expires_at=end.isoformat())
        assert system.admin.match(order["id"], size="3").status_code == 202
        expired = wait_until(lambda: (found := buyer.order(order["id"]))["status"] == "EXPIRED" and found)
        assert datetime.fromisoformat(expired["updated_at"]) >= end
        assert (expired["filled_size"], expired["final_status"]) == ("3", "EXPIRED")
        assert buyer.balance("TRY") == (Decimal(940), Decimal(940))
        (reservation,) = buyer.all("/api/reservations", order_id=order["id"])
        assert (reservation["status"], reservation["remaining"]) == ("EXPIRED", "0")
        answer = buyer.cancel(order["id"])
        assert (answer.status_code, answer.json()["status"]) == (200, "EXPIRED")
        told = wait_until(lambda: "ORDER_EXPIRED" in [each["type"] for each in buyer.notifications_of(order["id"])])
        assert told

    def test_a_better_price_gives_the_surplus_back(self, system: System) -> None:
        buyer, seller = system.customer(TRY="1000"), system.customer(AAPL="10")
        buy, sell = buyer.confirmed("BUY", "10", "100"), seller.confirmed("SELL", "10", "80")
        assert buyer.balance("TRY") == (Decimal(1000), Decimal(0))
        trade = system.admin.cross(buy, sell, price="90.5")
        assert trade["price"] == "90.5"
        wait_until(lambda: buyer.order(buy["id"])["status"] == "MATCHED")
        assert buyer.order(buy["id"])["average_price"] == "90.5"
        assert buyer.balance("TRY") == (Decimal(95), Decimal(95))
        assert seller.balance("TRY") == (Decimal(905), Decimal(905))

    def test_the_house_fills_an_order_alone(self, system: System) -> None:
        seller = system.customer(AAPL="10")
        sell = seller.confirmed("SELL", "10", "80")
        refused = system.admin.match(sell["id"], price="79")
        assert (refused.status_code, refused.json()["code"]) == (422, "prices-do-not-cross")
        assert system.admin.match(sell["id"], price="81").status_code == 202
        wait_until(lambda: seller.order(sell["id"])["status"] == "MATCHED")
        assert seller.balance("TRY") == (Decimal(810), Decimal(810))

    def test_too_little_cash_is_rejected_and_nothing_is_blocked(self, system: System) -> None:
        buyer = system.customer(TRY="100")
        order = buyer.place("BUY", "2", "50.01")
        assert (order["status"], order["rejection_reason"]) == ("REJECTED", "INSUFFICIENT_BALANCE")
        assert buyer.balance("TRY") == (Decimal(100), Decimal(100))
        told = wait_until(lambda: buyer.notifications_of(order["id"]))
        assert [each["type"] for each in told] == ["ORDER_REJECTED"]
        answer = buyer.cancel(order["id"])
        assert (answer.status_code, answer.json()["code"]) == (409, "order-already-final")


class TestTransfers:
    def test_a_repeated_deposit_is_the_first_one(self, system: System) -> None:
        customer = system.customer()
        first = system.admin.deposit(customer.id, "TRY", "100", "salary")
        again = system.admin.deposit(customer.id, "TRY", "100.00", "salary")
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        assert customer.balance("TRY") == (Decimal(100), Decimal(100))
        other = system.admin.deposit(customer.id, "TRY", "101", "salary")
        assert (other.status_code, other.json()["code"]) == (409, "reference-reused")

    def test_only_what_is_usable_can_be_withdrawn_and_once(self, system: System) -> None:
        customer = system.customer(TRY="100")
        customer.confirmed("BUY", "1", "60")
        body = {"asset_name": "TRY", "amount": "40.01", "reference": "rent"}
        refused = customer.request("POST", "/api/assets/withdraw", json=body)
        assert (refused.status_code, refused.json()["code"]) == (422, "insufficient-funds")
        assert customer.balance("TRY") == (Decimal(100), Decimal(40))
        body["amount"] = "40"
        answers = [customer.request("POST", "/api/assets/withdraw", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [201, 200]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert customer.balance("TRY") == (Decimal(60), Decimal(0))
        reference = f"withdrawal:{answers[0].json()['id']}"
        entries = customer.all("/api/ledger/entries", tx_ref=reference)
        assert [entry["amount"] for entry in entries] == ["-40"]

    def test_a_customer_pays_nothing_in_himself(self, system: System) -> None:
        customer = system.customer()
        body = {"customer_id": customer.id, "asset_name": "TRY", "amount": "1", "reference": new_id()}
        assert customer.request("POST", "/api/assets/deposit", json=body).status_code == 403
