"""Reading orders, whose they are, and waiting for them."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from order_service import waiting
from order_service.repository import find_changed_orders
from order_service.waiting import OrderWaiters
from shared.auth.permissions import Role
from shared.contracts.orders import ConfirmOrder, MarkOrderCanceled, MarkOrderMatched
from shared.ids import new_id
from tests.integration.order_service.conftest import TERMS, Api, filled


def later(seconds: float, work: Callable[[], Any]) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


class TestGetOrder:
    def test_is_shown_to_whom_it_concerns(self, api: Api, admin: int, broker: int) -> None:
        customer = api.customer(brokers=(broker,))
        order = api.placed(customer)
        for reader in (customer, broker, admin):
            assert api.order(order["id"], reader) == order

    def test_is_nobody_elses(self, api: Api, customer: int, broker: int) -> None:
        order = api.placed(customer)
        for stranger in (api.customer(), broker):
            for path in ("", "/events"):
                assert api.request("GET", f"/api/orders/{order['id']}{path}", stranger).status_code == 404
        assert api.request("GET", f"/api/orders/{order['id']}", api.customer(role=Role.AUDITOR)).status_code == 403
        assert api.request("GET", f"/api/orders/{order['id']}").status_code == 401

    @pytest.mark.parametrize(
        "order_id", ["0192f0c1-7b5a-7c3e-8000-5b1e3a9d2c47", "x", "1", "00000000-0000-0000-0000-00000000000G"]
    )
    def test_unknown(self, api: Api, customer: int, order_id: str) -> None:
        assert api.request("GET", f"/api/orders/{order_id}", customer).status_code == 404

    def test_history_in_pages(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        path = f"/api/orders/{order['id']}/events?limit=3"
        first = api.request("GET", path, customer).json()
        second = api.request("GET", f"{path}&cursor={first['next_cursor']}", customer).json()
        assert [row["seq"] for row in first["data"] + second["data"]] == [1, 2, 3, 4]
        assert second["next_cursor"] is None


class TestGetOrderByClientId:
    def test_of_the_caller(self, api: Api, customer: int) -> None:
        order = api.placed(customer, client_order_id="events")
        answer = api.request("GET", "/api/orders/by-client-id/events", customer)
        assert (answer.status_code, answer.json()) == (200, order)

    def test_of_a_brokers_customer(self, api: Api, broker: int) -> None:
        customer = api.customer(brokers=(broker,))
        order = api.placed(broker, customer_id=customer, client_order_id="a")
        path = "/api/orders/by-client-id/a"
        assert api.request("GET", f"{path}?customer_id={customer}", broker).json() == order
        assert api.request("GET", f"{path}?placed_by={broker}", customer).json() == order
        assert api.request("GET", path, customer).status_code == 404
        assert api.request("GET", path, broker).status_code == 422
        assert api.request("GET", f"{path}?customer_id={api.customer()}", broker).status_code == 404


class TestListOrders:
    def listed(self, api: Api, user: int, **query: Any) -> list[str]:
        """The ids of all pages."""
        ids: list[str] = []
        while True:
            answer = api.request("GET", "/api/orders", user, params=query)
            assert answer.status_code == 200, answer.text
            ids += [order["id"] for order in answer.json()["data"]]
            if answer.json()["next_cursor"] is None:
                return ids
            query["cursor"] = answer.json()["next_cursor"]

    def test_newest_first_in_pages(self, api: Api, customer: int) -> None:
        ids = [api.placed(customer)["id"] for _ in range(5)]
        assert self.listed(api, customer, limit=2) == ids[::-1]

    def test_of_one_flush_in_pages(self, api: Api, customer: int) -> None:
        answers = api.together(15, lambda _: api.place(customer))
        ids = {answer.json()["id"] for answer in answers}
        listed = self.listed(api, customer, limit=4)
        assert (len(listed), set(listed)) == (15, ids)

    def test_filters(self, api: Api, customer: int) -> None:
        resting = api.confirmed(customer, order_side="SELL")
        fresh = api.placed(customer)
        assert self.listed(api, customer, status="ORDER_CONFIRMED") == [resting["id"]]
        assert self.listed(api, customer, order_side="BUY", asset_name="AAPL") == [fresh["id"]]
        assert self.listed(api, customer, asset_name="GOOGL") == []
        assert self.listed(api, customer, created_from=fresh["created_at"]) == [fresh["id"]]
        assert self.listed(api, customer, created_to=fresh["created_at"]) == [resting["id"]]

    def test_whose(self, api: Api, admin: int, broker: int) -> None:
        customers = [api.customer(brokers=(broker,)) for _ in range(2)]
        ids = [api.placed(customer)["id"] for customer in customers]
        stranger = api.customer()
        assert sorted(self.listed(api, broker, limit=1)) == ids
        assert self.listed(api, broker, customer_id=customers[0]) == ids[:1]
        assert self.listed(api, admin, customer_id=customers[1]) == ids[1:]
        assert api.request("GET", "/api/orders?limit=2", admin).json()["data"][0]["id"] == ids[1]
        assert self.listed(api, stranger) == []
        assert api.request("GET", f"/api/orders?customer_id={customers[0]}", stranger).status_code == 404

    @pytest.mark.parametrize("query", ["cursor=abc", "cursor=WyJhIiwiYiJd", "status=OPEN", "limit=0", "colour=red"])
    def test_what_cannot_be_asked(self, api: Api, customer: int, query: str) -> None:
        assert api.request("GET", f"/api/orders?{query}", customer).status_code == 422


class TestWaiting:
    def test_post_waits_for_the_saga(self, api: Api, customer: int) -> None:
        def confirm() -> None:
            path = f"/api/orders?customer_id={customer}"
            (order,) = api.request("GET", path, customer).json()["data"]
            api.command(order, ConfirmOrder())

        timer = later(0.3, confirm)
        answer = api.place(customer, headers={"Prefer": "wait=5"})
        timer.join()
        assert (answer.status_code, answer.json()["status"]) == (201, "ORDER_CONFIRMED")
        assert answer.headers["preference-applied"] == "wait=5"

    def test_a_change_is_heard_and_not_looked_for(
        self, api: Api, customer: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "POLL_SECONDS", 60.0)
        self.test_post_waits_for_the_saga(api, customer)

    def test_only_what_has_changed_is_read(self, api: Api, customer: int) -> None:
        same, other = (api.placed(customer)["id"] for _ in range(2))
        gone = new_id()
        with api.resources.database.read() as connection:
            changed = find_changed_orders(connection, {same: 1, other: 7, gone: 1})
        assert {order_id: row["version"] for order_id, row in changed.items()} == {other: 1}

    def test_delete_waits_for_the_end(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer)
        timer = later(0.3, lambda: api.command(order, MarkOrderCanceled()))
        answer = api.request("DELETE", f"/api/orders/{order['id']}", customer, headers={"Prefer": "wait=5"})
        timer.join()
        assert (answer.status_code, answer.json()["status"]) == (202, "CANCELED")

    def test_what_is_final_is_not_waited_for(self, api: Api, customer: int) -> None:
        order = api.confirmed(customer, client_order_id="a")
        api.command(order, filled(MarkOrderMatched, "10"))
        started = time.monotonic()
        answer = api.place(customer, client_order_id="a", headers={"Prefer": "wait=5"})
        assert (answer.status_code, answer.json()["status"]) == (200, "MATCHED")
        assert time.monotonic() - started < 1

    def test_patience_ends(self, api: Api, customer: int) -> None:
        answer = api.place(customer, headers={"Prefer": "wait=1"})
        assert (answer.status_code, answer.json()["status"]) == (201, "PENDING_RESERVATION")

    @pytest.mark.parametrize("preference", ["wait=0", "wait=-1", "respond-async"])
    def test_not_asked_to(self, api: Api, customer: int, preference: str) -> None:
        answer = api.place(customer, headers={"Prefer": preference})
        assert "preference-applied" not in answer.headers

    def test_many_wait_at_the_cost_of_one(self, api: Api, customer: int, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []
        waiters = api.resources.waiters
        find = waiters._find_changed
        monkeypatch.setattr(waiters, "_find_changed", lambda seen: (asked.append(len(seen)), find(seen))[1])
        api.together(20, lambda _: api.place(customer, headers={"Prefer": "wait=2"}))
        assert max(asked) > 10
        assert len(asked) < 50
        assert isinstance(waiters, OrderWaiters)
        assert not waiters._waiters


def test_terms_are_required(api: Api, customer: int) -> None:
    for name in TERMS:
        body = {key: value for key, value in TERMS.items() if key != name}
        answer = api.request("POST", "/api/orders", customer, json=body, headers={"Idempotency-Key": new_id()})
        assert answer.json()["errors"][0]["pointer"] == f"/{name}"


def test_ready_once_customers_are_known(api: Api, customer: int) -> None:
    assert api.resources.ready() is None
    assert api.client.get("/health/ready").json()["services"] == {"order_service": "ready"}
