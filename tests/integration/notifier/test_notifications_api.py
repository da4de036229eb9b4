"""`GET /api/notifications` and `POST /api/notifications/{id}/read`, behind the real edge."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from notifier.service import Notifier
from shared.contracts.customers import CustomerRegistered
from shared.contracts.orders import OrderConfirmed
from shared.db.page import encode_cursor
from shared.testing.messages import create_customer_event, create_order_event
from shared.testing.servers import LocalMongo

Found = Callable[[int], list[dict[str, Any]]]
_customers = itertools.count(800_000)


@pytest.fixture
def people(notifier: Notifier) -> list[int]:
    """Two customers whom this service knows."""
    ids = [next(_customers), next(_customers)]
    notifier.handle([create_customer_event(CustomerRegistered, id, username=f"u{id}") for id in ids])
    return ids


def tell(notifier: Notifier, customer_id: int, count: int = 1) -> list[str]:
    events = [create_order_event(OrderConfirmed, customer_id) for _ in range(count)]
    notifier.handle(events)
    return [event.event_id for event in events]


class TestListNotifications:
    def test_it_shows_ones_own_in_the_contracts_shape(self, api: Any, notifier: Notifier, people: list[int]) -> None:
        [event_id] = tell(notifier, people[0])
        tell(notifier, people[1])
        answer = api.call("GET", "/api/notifications", people[0])
        assert answer.status_code == 200
        [shown] = answer.json()["data"]
        assert shown["event_id"] == event_id
        assert shown["type"] == "ORDER_CONFIRMED"
        assert shown["read_status"] == "UNREAD"
        assert shown["channels"]["in_app"]["status"] == "DELIVERED"
        assert shown["channels"]["sms"] == {
            **shown["channels"]["sms"],
            "status": "SKIPPED",
            "reason": "channel-not-available",
        }
        assert shown["related_entity"]["type"] == "order"
        assert shown["created_at"].endswith("Z")

    def test_pages_follow_each_other_without_gap_or_repeat(
        self, api: Any, notifier: Notifier, people: list[int]
    ) -> None:
        expected = [*tell(notifier, people[0], 7), *tell(notifier, people[0], 4)]
        seen: list[str] = []
        cursor = ""
        while True:
            page = api.call("GET", f"/api/notifications?limit=3{cursor}", people[0]).json()
            seen += [shown["event_id"] for shown in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert sorted(seen) == sorted(expected)
        assert set(seen[:4]) == set(expected[7:])

    @pytest.mark.parametrize(
        "keys",
        [
            [1],
            ["x", "y"],
            ["2026-01-01T00:00:00.000", "y"],
            ["0001-01-01T00:00:00.000+23:59", "y"],
            ["2026-01-01", "y"],
        ],
    )
    def test_a_forged_cursor_is_refused(self, api: Any, people: list[int], keys: list[Any]) -> None:
        answer = api.call("GET", f"/api/notifications?cursor={encode_cursor(keys)}", people[0])
        assert answer.status_code == 422

    def test_one_must_be_signed_in(self, api: Any) -> None:
        assert api.call("GET", "/api/notifications", None).status_code == 401


class TestMarkRead:
    def test_it_is_read_from_then_on_and_again_is_the_same(
        self, api: Any, notifier: Notifier, found: Found, people: list[int]
    ) -> None:
        tell(notifier, people[0])
        path = f"/api/notifications/{found(people[0])[0]['_id']}/read"
        assert api.call("POST", path, people[0]).status_code == 204
        [first] = found(people[0])
        assert first["read_status"] == "READ"
        assert first["read_at"] is not None
        assert api.call("POST", path, people[0]).status_code == 204
        assert found(people[0]) == [first]
        assert api.call("GET", "/api/notifications", people[0]).json()["data"][0]["read_status"] == "READ"

    def test_anothers_is_not_there(self, api: Any, notifier: Notifier, found: Found, people: list[int]) -> None:
        tell(notifier, people[0])
        path = f"/api/notifications/{found(people[0])[0]['_id']}/read"
        assert api.call("POST", path, people[1]).status_code == 404
        assert found(people[0])[0]["read_status"] == "UNREAD"

    @pytest.mark.parametrize("id", ["0192f0c1-7b5a-7c3e-8000-5b1e3a9d2c47", "nothing", "%24ne", "0"])
    def test_what_does_not_exist_is_not_there(self, api: Any, people: list[int], id: str) -> None:
        assert api.call("POST", f"/api/notifications/{id}/read", people[0]).status_code == 404


class TestWhileMongoHangs:
    def test_a_read_is_503_before_the_driver_gives_up(self, api: Any, people: list[int], mongo: LocalMongo) -> None:
        """The store wakes up before the driver's own 10 s are over: who waits that long is answered 200."""
        assert api.call("GET", "/api/notifications", people[0]).status_code == 200
        with mongo.hanging(seconds_max=8):
            answer = api.call("GET", "/api/notifications", people[0])
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert api.call("GET", "/api/notifications", people[0]).status_code == 200
