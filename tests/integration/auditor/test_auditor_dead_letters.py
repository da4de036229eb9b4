"""The auditor's own dead letters: let go by an admin, and that on record in its trail."""

from collections.abc import Sequence
from typing import Any

from auditor.documents import LOGS, NAME
from shared.auth import tokens
from shared.contracts.customers import CustomerRegistered
from shared.contracts.message import Message
from shared.contracts.orders import OrderConfirmed
from shared.messaging.inbox import Inbox
from shared.mongo import MongoInboxStore
from shared.testing.messages import create_customer_event, create_delivery, create_order_event

ADMIN = 950_001


def test_a_requeued_event_enters_the_trail_and_so_does_who_let_it_go(api: Any) -> None:
    api.trail.auditor.handle([create_customer_event(CustomerRegistered, ADMIN, role="ADMIN")])

    def broken(messages: Sequence[Message[Any]]) -> None:
        raise ValueError("not today")

    event = create_order_event(OrderConfirmed)
    Inbox(MongoInboxStore(api.trail.database, consumer=NAME, handler=broken)).receive(create_delivery([event]))
    token = tokens.issue(api.key, customer_id=ADMIN, session_id="s")
    headers = {"Authorization": f"Bearer {token}"}
    listed = api.client.get(f"/api/dead-letters/{NAME}", headers=headers).json()["data"]
    [letter] = [row for row in listed if row["event_id"] == event.event_id]
    answer = api.client.post(f"/api/dead-letters/{NAME}/{letter['id']}/requeue", headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (202, "REQUEUED")
    assert api.trail.database[LOGS].count_documents({"event_id": event.event_id}) == 1
    [act] = api.reads("requeue_dead_letter")
    assert (act["user_id"], act["entity_id"]) == (ADMIN, letter["id"])
    assert act["new_value"]["subject"] == {"service": NAME, "event_id": event.event_id}
