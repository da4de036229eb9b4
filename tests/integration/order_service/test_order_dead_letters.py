"""Dead letters over HTTP: an event that really was parked, what was held behind it, and how a person lets them go."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from order_service.tasks import handle
from shared.contracts.message import Message
from shared.contracts.orders import ConfirmOrder, MarkOrderCanceled, MarkOrderPartiallyMatched
from shared.db import Context, UnitOfWork
from shared.ids import new_id
from shared.messaging.dead_letters import PostgresDeadLetters
from shared.messaging.delivery import Batch, Delivery, Outcome
from shared.messaging.inbox import Inbox
from shared.messaging.postgres_inbox import PostgresInboxStore
from shared.testing.messages import create_delivery
from tests.integration.order_service.conftest import Api, filled, message_of

PATH = "/api/dead-letters/order_service"


@pytest.fixture
def inbox(api: Api) -> Inbox:
    return Inbox(PostgresInboxStore(api.resources.database, consumer="order_service", handler=handle))


def receive(inbox: Inbox, *messages: Message[Any]) -> Outcome:
    [answer] = inbox.receive(create_delivery(list(messages)))
    return answer.outcome


def letters(api: Api, admin: int, aggregate_id: str) -> list[dict[str, Any]]:
    """Those of one aggregate, over all pages."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        answer = api.request("GET", f"{PATH}?limit=2{cursor}", admin)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        if page["next_cursor"] is None:
            return [letter for letter in found if letter["aggregate_id"] == aggregate_id]
        cursor = f"&cursor={page['next_cursor']}"


@pytest.fixture
def blocked(api: Api, inbox: Inbox, customer: int) -> dict[str, Any]:
    """A confirmed order that was told it is canceled, although nobody asked; and a fill that came behind it."""
    order = api.confirmed(customer)
    assert receive(inbox, message_of(MarkOrderCanceled(), order["id"])) is Outcome.PARKED
    assert receive(inbox, message_of(filled(MarkOrderPartiallyMatched, "3"), order["id"])) is Outcome.PARKED
    return order


def requeue(api: Api, admin: int, letter: dict[str, Any]) -> Any:
    return api.request("POST", f"{PATH}/{letter['id']}/requeue", admin)


class TestListing:
    def test_shows_what_was_parked_and_what_waits_behind_it(
        self, api: Api, admin: int, blocked: dict[str, Any]
    ) -> None:
        parked, held = letters(api, admin, blocked["id"])
        assert set(parked) == {
            "id", "event_id", "event_type", "aggregate_type", "aggregate_id", "status", "reason", "message", "created_at",
        }  # fmt: skip
        assert (parked["event_type"], parked["status"]) == ("MarkOrderCanceled", "PARKED")
        assert parked["reason"].startswith("InvalidTransition")
        assert (held["event_type"], held["status"]) == ("MarkOrderPartiallyMatched", "HELD")
        assert held["message"]["payload"]["filled_size"] == "3"
        assert parked["message"]["event_id"] == parked["event_id"]

    def test_shows_one_and_what_goes_with_it(self, api: Api, admin: int, blocked: dict[str, Any]) -> None:
        parked, held = letters(api, admin, blocked["id"])
        answer = api.request("GET", f"{PATH}/{held['id']}", admin)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {**held, "together": [parked, held]}
        assert api.request("GET", f"{PATH}/{new_id()}", admin).status_code == 404
        assert api.request("GET", f"{PATH}/nonsense", admin).status_code == 404

    def test_shows_one_that_nobody_can_read(self, api: Api, admin: int, inbox: Inbox) -> None:
        delivery = Delivery("source", [Batch(new_id(), 1, msgspec.Raw(b"[7]"))])
        inbox.receive(delivery)
        page = api.request("GET", f"{PATH}?limit=200", admin).json()["data"]
        [letter] = [each for each in page if each["reason"] == "MALFORMED"]
        assert (letter["message"], letter["status"]) == (7, "PARKED")
        refused = requeue(api, admin, letter)
        assert (refused.status_code, refused.json()["code"]) == (409, "dead-letter-failed-again")

    def test_is_for_admins(self, api: Api, customer: int, blocked: dict[str, Any]) -> None:
        assert api.request("GET", PATH, customer).status_code == 403
        assert api.request("POST", f"{PATH}/{new_id()}/requeue", customer).status_code == 403
        assert api.request("GET", PATH).status_code == 401

    def test_refuses_a_forged_cursor(self, api: Api, admin: int) -> None:
        assert api.request("GET", f"{PATH}?cursor=abc", admin).status_code == 422


class TestRequeue:
    def test_that_fails_again_changes_nothing(self, api: Api, admin: int, blocked: dict[str, Any]) -> None:
        before = letters(api, admin, blocked["id"])
        answer = requeue(api, admin, before[0])
        assert answer.status_code == 409
        problem = answer.json()
        assert (problem["code"], problem["event_id"]) == ("dead-letter-failed-again", before[0]["event_id"])
        assert problem["detail"] == "It failed again: InvalidTransition."
        assert letters(api, admin, blocked["id"]) == before
        assert api.says(before[0]["id"], "auditor") == []

    def test_lets_the_parked_event_and_the_held_ones_go_in_their_order(
        self, api: Api, admin: int, customer: int, inbox: Inbox, blocked: dict[str, Any]
    ) -> None:
        assert api.request("DELETE", f"/api/orders/{blocked['id']}", customer).status_code == 202
        parked, _ = letters(api, admin, blocked["id"])
        answer = requeue(api, admin, parked)
        assert (answer.status_code, answer.json()["status"]) == (202, "REQUEUED")
        order = api.order(blocked["id"], customer)
        assert (order["status"], order["filled_size"]) == ("CANCELED", "0"), "canceled first, so the fill came too late"
        assert letters(api, admin, blocked["id"]) == []
        [act] = api.messages(parked["id"], "auditor")
        assert (act["type"], act["actor"]["id"]) == ("AdminActed", admin)
        assert act["payload"] == {
            "action": "requeue_dead_letter",
            "subject": {"service": "order_service", "event_id": parked["event_id"], "events": 2},
        }
        assert receive(inbox, message_of(MarkOrderCanceled(), blocked["id"])) is Outcome.ACKED, (
            "it is no longer blocked"
        )

    def test_again_is_the_same_and_has_no_effect(
        self, api: Api, admin: int, customer: int, blocked: dict[str, Any]
    ) -> None:
        api.request("DELETE", f"/api/orders/{blocked['id']}", customer)
        parked, held = letters(api, admin, blocked["id"])
        answers = api.together(4, lambda _: requeue(api, admin, parked))
        assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(202, "REQUEUED")}
        assert requeue(api, admin, held).json()["status"] == "REQUEUED"
        assert api.says(parked["id"], "auditor") == ["AdminActed"]
        assert api.says(blocked["id"])[-1] == "OrderCanceled"
        assert api.says(blocked["id"]).count("OrderCanceled") == 1

    def test_of_what_is_not_there_is_not_found(self, api: Api, admin: int) -> None:
        assert requeue(api, admin, {"id": new_id()}).status_code == 404
        assert requeue(api, admin, {"id": "nonsense"}).status_code == 404

    def test_an_event_that_comes_meanwhile_is_not_left_behind(self, api: Api, inbox: Inbox, customer: int) -> None:
        """It finds the aggregate blocked, waits for the requeue to end, and then has nothing to wait behind."""
        order = api.placed(customer)
        receive(inbox, message_of(MarkOrderCanceled(), order["id"]))
        api.command(order, ConfirmOrder())
        api.request("DELETE", f"/api/orders/{order['id']}", customer)
        handling, go_on = threading.Event(), threading.Event()

        def slow(unit: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
            handle(unit, messages)
            handling.set()
            assert go_on.wait(10)

        database = api.resources.database
        dead_letters = PostgresDeadLetters(database, consumer="order_service", handler=slow)
        [letter] = [row for row in dead_letters.list_open(after=None, limit=200) if row["aggregate_id"] == order["id"]]
        with ThreadPoolExecutor(2) as pool:
            requeued = pool.submit(dead_letters.requeue, letter["id"], Context())
            assert handling.wait(10)
            late = pool.submit(receive, inbox, message_of(filled(MarkOrderPartiallyMatched, "3"), order["id"]))
            waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'dead_letters'::regclass AND NOT granted"
            while not api.count(waiting):
                assert not late.done()
            go_on.set()
            assert requeued.result(10)["status"] == "REQUEUED"
            assert late.result(10) is Outcome.ACKED
        assert not [row for row in dead_letters.list_open(after=None, limit=200) if row["aggregate_id"] == order["id"]]
