"""Dead letters of a service on MongoDB: parked by its inbox, listed and let go over HTTP."""

from collections.abc import Sequence
from typing import Any

import pytest

from notifier.documents import NAME, NOTIFICATIONS
from notifier.service import Notifier
from shared.contracts.customers import CustomerRegistered
from shared.contracts.message import Message
from shared.contracts.orders import OrderConfirmed
from shared.ids import new_id
from shared.messaging.delivery import Outcome
from shared.messaging.inbox import Inbox
from shared.mongo import MongoDatabase, MongoInboxStore
from shared.mongo.inbox import DEAD_LETTERS
from shared.testing.messages import create_customer_event, create_delivery, create_message, create_order_event
from tests.integration.notifier.conftest import Api

PATH = f"/api/dead-letters/{NAME}"
ADMIN, CUSTOMER = 900_001, 900_002


@pytest.fixture
def order_id(notifier: Notifier, database: MongoDatabase) -> str:
    """Of an order with a parked event and a held one."""
    notifier.handle([create_customer_event(CustomerRegistered, ADMIN, role="ADMIN"),
                     create_customer_event(CustomerRegistered, CUSTOMER)])  # fmt: skip
    order_id = new_id()

    def broken(messages: Sequence[Message[Any]]) -> None:
        raise ValueError("not today")

    inbox = Inbox(MongoInboxStore(database, consumer=NAME, handler=broken))
    for _ in range(2):
        event = create_order_event(OrderConfirmed, customer_id=CUSTOMER)
        message = create_message(event.payload, aggregate_id=order_id, customer_id=CUSTOMER)
        [answer] = inbox.receive(create_delivery([message]))
        assert answer.outcome is Outcome.PARKED
    return order_id


def letters(api: Api, order_id: str) -> list[dict[str, Any]]:
    answer = api.call("GET", f"{PATH}?limit=200", ADMIN)
    assert answer.status_code == 200, answer.text
    return [letter for letter in answer.json()["data"] if letter["aggregate_id"] == order_id]


def test_they_are_listed_and_let_go_in_their_order(api: Api, order_id: str, database: MongoDatabase) -> None:
    parked, held = letters(api, order_id)
    assert (parked["status"], held["status"]) == ("PARKED", "HELD")
    assert parked["message"]["payload"]["asset_name"] == "AAPL"
    answer = api.call("POST", f"{PATH}/{parked['id']}/requeue", ADMIN)
    assert (answer.status_code, answer.json()["status"]) == (202, "REQUEUED")
    assert letters(api, order_id) == []
    told = database[NOTIFICATIONS].find({"related_entity.id": order_id}).sort("_id", 1)
    assert [row["event_id"] for row in told] == [parked["event_id"], held["event_id"]]
    stored = database[DEAD_LETTERS].find_one({"_id": held["id"]})
    assert stored is not None and stored["requeued_by"] == ADMIN and stored["resolved_at"] is not None
    again = api.call("POST", f"{PATH}/{parked['id']}/requeue", ADMIN)
    assert (again.status_code, again.json()["status"]) == (202, "REQUEUED")
    assert database[NOTIFICATIONS].count_documents({"related_entity.id": order_id}) == 2


def test_what_fails_again_stays(api: Api, order_id: str, database: MongoDatabase) -> None:
    parked, held = letters(api, order_id)
    database[DEAD_LETTERS].update_one({"_id": held["id"]}, {"$set": {"message": '{"type": "Unheard"}'}})
    answer = api.call("POST", f"{PATH}/{parked['id']}/requeue", ADMIN)
    assert (answer.status_code, answer.json()["code"]) == (409, "dead-letter-failed-again")
    assert [letter["status"] for letter in letters(api, order_id)] == ["PARKED", "HELD"]


def test_they_are_for_admins(api: Api, order_id: str) -> None:
    assert api.call("GET", PATH, CUSTOMER).status_code == 403
    assert api.call("POST", f"{PATH}/{new_id()}/requeue", ADMIN).status_code == 404
