"""POST /api/orders: works, refused, repeated, concurrent."""

from collections import Counter
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from order_service.errors import TooManyOrders
from shared.auth.permissions import Role
from shared.ids import new_id
from tests.integration.order_service.conftest import TERMS, Api, instrument, message_of


def errors_of(answer: Any) -> set[str]:
    assert answer.status_code == 422, answer.text
    return {error["pointer"] for error in answer.json()["errors"]}


class TestPlaceOrder:
    def test_answers_with_the_stored_order(self, api: Api, customer: int) -> None:
        answer = api.place(customer, client_order_id="mine", size="10.500000", price="12.50")
        order = answer.json()
        assert answer.status_code == 201
        assert answer.headers["location"] == f"/api/orders/{order['id']}"
        assert order == api.order(order["id"], customer)
        expected = {
            "client_order_id": "mine",
            "customer_id": customer,
            "placed_by": customer,
            "quote_asset": "TRY",
            "size": "10.5",
            "price": "12.5",
            "filled_size": "0",
            "remaining_size": "10.5",
            "average_price": None,
            "fee_amount": "0",
            "status": "PENDING_RESERVATION",
            "final_status": None,
            "rejection_reason": None,
            "version": 1,
            "expires_at": None,
        }
        assert {name: order[name] for name in expected} == expected
        assert order["created_at"].endswith("Z")

    def test_history_begins_with_created(self, api: Api, customer: int) -> None:
        order = api.placed(customer)
        rows = api.history(order["id"], customer)
        assert [(row["seq"], row["status"]) for row in rows] == [(1, "CREATED"), (2, "PENDING_RESERVATION")]
        assert {row["actor_id"] for row in rows} == {customer}

    def test_tells_processor_and_auditor(self, api: Api, customer: int) -> None:
        order = api.placed(customer)
        (said,) = api.messages(order["id"])
        assert said["type"] == "OrderCreated"
        assert said["actor"] == {"id": customer, "role": "CUSTOMER"}
        assert said["payload"]["after"] == {"status": "PENDING_RESERVATION"}
        assert said["payload"]["size"] == "10"
        assert api.says(order["id"], "auditor") == ["OrderCreated"]
        assert api.says(order["id"], "notifier") == []

    def test_each_order_of_a_flush_keeps_its_correlation(self, api: Api, customer: int) -> None:
        answers = api.together(20, lambda n: api.place(customer, headers={"X-Correlation-ID": f"corr-{n}"}))
        for number, answer in enumerate(answers):
            (said,) = api.messages(answer.json()["id"])
            assert said["correlation_id"] == f"corr-{number}"

    def test_a_broker_places_for_his_customer(self, api: Api, broker: int) -> None:
        customer = api.customer(brokers=(broker,))
        order = api.placed(broker, customer_id=customer)
        assert (order["customer_id"], order["placed_by"]) == (customer, broker)
        (said,) = api.messages(order["id"])
        assert said["actor"] == {"id": broker, "role": "BROKER", "on_behalf_of": customer}

    def test_waits_for_an_instrument_on_its_way(self, api: Api, customer: int) -> None:
        name = "N" + new_id()[-8:].upper()

        def work(number: int) -> Any:
            if number:
                return api.handle([message_of(instrument(name), name)])
            return api.place(customer, asset_name=name)

        assert api.together(2, work)[0].status_code == 201


class TestOrdersThatEnd:
    def test_of_the_day_end_at_the_next_close(self, api: Api, customer: int) -> None:
        answer = api.placed(customer, time_in_force="DAY")
        accepted, end = (datetime.fromisoformat(answer[name]) for name in ("created_at", "expires_at"))
        assert timedelta() < end - accepted <= timedelta(days=1)
        assert end.astimezone(ZoneInfo("Europe/Istanbul")).time() == time(18)
        assert answer["expires_at"].endswith("Z")
        [said] = api.messages(answer["id"])
        assert datetime.fromisoformat(said["payload"]["expires_at"]) == end

    def test_with_a_date_end_then_to_the_second_whatever_its_offset(self, api: Api, customer: int) -> None:
        answer = api.placed(customer, time_in_force="GTD", expires_at="2096-02-29T18:00:00.5+03:00")
        assert answer["expires_at"] == "2096-02-29T15:00:00.500000Z"
        assert api.order(answer["id"], customer) == answer

    def test_a_repeat_is_the_first_order_even_when_its_time_is_over(
        self, api: Api, customer: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        end = "2095-01-01T00:00:00Z"
        first = api.placed(customer, time_in_force="GTD", expires_at=end, client_order_id="once")
        monkeypatch.setattr(api.resources.database.clock, "now", lambda: datetime(2095, 1, 1, tzinfo=UTC))
        assert errors_of(api.place(customer, time_in_force="GTD", expires_at=end)) == {"/expires_at"}
        again = api.place(customer, time_in_force="GTD", expires_at=end, client_order_id="once")
        assert (again.status_code, again.json()["id"]) == (200, first["id"])

    def test_other_times_are_another_order(self, api: Api, customer: int) -> None:
        terms = {"time_in_force": "GTD", "client_order_id": "timed"}
        api.placed(customer, expires_at="2090-01-01T00:00:00Z", **terms)
        same = api.place(customer, expires_at="2090-01-01T03:00:00+03:00", **terms)
        other = api.place(customer, expires_at="2090-01-01T00:00:01Z", **terms)
        assert (same.status_code, other.json()["code"]) == (200, "client-order-id-reused")


class TestRefused:
    @pytest.mark.parametrize(
        ("terms", "pointer"),
        [
            ({"asset_name": "TRY"}, "/asset_name"),
            ({"size": "1.0000001"}, "/size"),
            ({"price": "1.001"}, "/price"),
            ({"size": "999999999999", "price": "9999999"}, "/size"),
            ({"size": "0"}, "/size"),
            ({"size": 1}, "/size"),
            ({"order_type": "MARKET"}, "/order_type"),
            ({"time_in_force": "IOC"}, "/time_in_force"),
            ({"expires_at": "2030-01-01T00:00:00Z"}, "/expires_at"),
            ({"time_in_force": "DAY", "expires_at": "2100-01-01T00:00:00Z"}, "/expires_at"),
            ({"time_in_force": "GTD"}, "/expires_at"),
            ({"time_in_force": "GTD", "expires_at": None}, "/expires_at"),
            ({"time_in_force": "GTD", "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
            ({"time_in_force": "GTD", "expires_at": "2100-02-29T00:00:00Z"}, "/expires_at"),
            ({"time_in_force": "GTD", "expires_at": "2100-01-01T00:00:00"}, "/expires_at"),
            ({"time_in_force": "GTD", "expires_at": 4102444800}, "/expires_at"),
            ({"order_side": "HOLD"}, "/order_side"),
        ],
    )
    def test_what_cannot_be(self, api: Api, customer: int, terms: dict[str, Any], pointer: str) -> None:
        assert errors_of(api.place(customer, **terms)) == {pointer}
        assert api.count("SELECT count(*) FROM orders WHERE customer_id = %s", customer) == 0

    def test_unknown_instrument(self, api: Api, customer: int) -> None:
        assert errors_of(api.place(customer, asset_name="NOSUCH")) == {"/asset_name"}

    def test_neither_key_nor_client_order_id(self, api: Api, customer: int) -> None:
        answer = api.request("POST", "/api/orders", customer, json=TERMS)
        assert (answer.status_code, answer.json()["code"]) == (400, "idempotency-key-missing")

    def test_for_somebody_else(self, api: Api, customer: int, broker: int) -> None:
        other = api.customer()
        assert errors_of(api.place(customer, customer_id=other)) == {"/customer_id"}
        assert errors_of(api.place(broker, customer_id=other)) == {"/customer_id"}

    def test_staff_must_name_a_customer(self, api: Api, admin: int, broker: int) -> None:
        assert errors_of(api.place(admin)) == {"/customer_id"}
        assert errors_of(api.place(broker, customer_id=broker)) == {"/customer_id"}

    def test_auditor(self, api: Api) -> None:
        assert api.place(api.customer(role=Role.AUDITOR)).status_code == 403

    def test_for_a_deactivated_customer(self, api: Api, admin: int) -> None:
        answer = api.place(admin, customer_id=api.customer(active=False))
        assert (answer.status_code, answer.json()["code"]) == (403, "customer-inactive")

    def test_when_too_many_wait(self, api: Api, customer: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(api.resources.placing, "_waiting_max", 0)
        answer = api.place(customer)
        assert (answer.status_code, answer.json()["code"]) == (503, TooManyOrders.code)
        assert answer.headers["retry-after"]


class TestRepeated:
    def test_client_order_id_returns_the_first_order(self, api: Api, customer: int) -> None:
        first = api.placed(customer, client_order_id="a")
        again = api.place(customer, client_order_id="a", size="10.0", customer_id=customer)
        assert (again.status_code, again.json()) == (200, first)

    def test_client_order_id_of_other_terms(self, api: Api, customer: int) -> None:
        api.placed(customer, client_order_id="a")
        again = api.place(customer, client_order_id="a", size="11")
        assert (again.status_code, again.json()["code"]) == (409, "client-order-id-reused")

    def test_client_order_id_is_the_submitters_own(self, api: Api, broker: int) -> None:
        customer = api.customer(brokers=(broker,))
        assert (
            api.placed(customer, client_order_id="a")["id"]
            != api.placed(broker, client_order_id="a", customer_id=customer)["id"]
        )

    def test_key_repeats_the_first_answer(self, api: Api, customer: int) -> None:
        key = new_id()
        first = api.place(customer, key=key)
        again = api.place(customer, key=key)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json()
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"

    def test_key_of_another_body(self, api: Api, customer: int) -> None:
        key = new_id()
        api.place(customer, key=key)
        again = api.place(customer, key=key, size="11")
        assert (again.status_code, again.json()["code"]) == (422, "idempotency-key-reused")

    def test_key_is_the_callers_own(self, api: Api, customer: int) -> None:
        key = new_id()
        assert api.place(customer, key=key).json()["id"] != api.place(api.customer(), key=key).json()["id"]

    def test_expired_key_is_a_new_one(self, api: Api, customer: int) -> None:
        key = new_id()
        first = api.place(customer, key=key).json()

        def age(uow: Any) -> None:
            uow.connection.execute(
                "UPDATE idempotency_records SET created_at = created_at - interval '25 hours' WHERE key = %s", [key]
            )

        api.resources.database.run(age)
        again = api.place(customer, key=key, size="11")
        assert again.status_code == 201
        assert again.json()["id"] != first["id"]

    def test_refused_client_order_id_leaves_its_key_free(self, api: Api, customer: int) -> None:
        key = new_id()
        api.placed(customer, client_order_id="a")
        assert api.place(customer, key=key, client_order_id="a", size="11").status_code == 409
        assert api.place(customer, key=key, client_order_id="b").status_code == 201

    def test_reused_key_leaves_its_client_order_id_free(self, api: Api, customer: int) -> None:
        key = new_id()
        api.place(customer, key=key)
        assert api.place(customer, key=key, client_order_id="b").status_code == 422
        assert api.place(customer, client_order_id="b").status_code == 201

    def test_new_key_of_a_known_client_order_id(self, api: Api, customer: int) -> None:
        key = new_id()
        first = api.placed(customer, client_order_id="a")
        for replayed in (None, "true"):
            again = api.place(customer, key=key, client_order_id="a")
            assert (again.status_code, again.json()["id"]) == (200, first["id"])
            assert again.headers.get("idempotent-replayed") == replayed

    def test_repeat_of_what_would_be_refused_today(self, api: Api, customer: int) -> None:
        name = "R" + new_id()[-8:].upper()
        api.handle([message_of(instrument(name), name)])
        first = api.placed(customer, client_order_id="a", asset_name=name, size="0.5")
        api.handle([message_of(instrument(name, size_scale=0), name, version=2)])
        api.resources.instruments._fresh_until = 0.0
        assert api.place(customer, client_order_id="b", asset_name=name, size="0.5").status_code == 422
        again = api.place(customer, client_order_id="a", asset_name=name, size="0.5")
        assert (again.status_code, again.json()["id"]) == (200, first["id"])


class TestConcurrent:
    def test_one_client_order_id_makes_one_order(self, api: Api, customer: int) -> None:
        answers = api.together(50, lambda _: api.place(customer, client_order_id="once"))
        assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 49}
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert api.count("SELECT count(*) FROM orders WHERE customer_id = %s", customer) == 1

    def test_one_key_makes_one_order(self, api: Api, customer: int) -> None:
        key = new_id()
        answers = api.together(30, lambda _: api.place(customer, key=key))
        placed = {answer.json()["id"] for answer in answers if answer.status_code == 201}
        assert len(placed) == 1
        assert {answer.status_code for answer in answers} <= {201, 409}
        assert api.count("SELECT count(*) FROM orders WHERE customer_id = %s", customer) == 1

    def test_many_orders_of_many_customers(self, api: Api) -> None:
        customers = [api.customer() for _ in range(4)]
        answers = api.together(40, lambda n: api.place(customers[n % 4], client_order_id=f"{n}"))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 40

    def test_an_order_that_breaks_the_batch_harms_no_other(self, api: Api, customer: int) -> None:
        # His tier's terms break a constraint of the table, which no check before the database knows of.
        poisoned = api.customer(fee_rate=Decimal(-1))

        def work(number: int) -> Any:
            return api.place(poisoned if number == 7 else customer)

        answers = api.together(20, work)
        assert [answer.status_code for answer in answers] == [500 if number == 7 else 201 for number in range(20)]
