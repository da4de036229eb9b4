"""The projection of customers that every Postgres service keeps, fed with the events customer_service says."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from customer_service.service import customers
from shared.auth.ended_sessions import ended_sessions_of
from shared.auth.permissions import Role
from shared.auth.principals import apply_customer_events, postgres_directory
from shared.contracts.customers import SessionEnded
from shared.contracts.message import Message, decode_messages
from shared.ids import new_id
from shared.testing.messages import create_message
from tests.integration.customer_service.conftest import Api, Person


def messages_for(api: Api, *ids: int, reader: str = "order_service") -> list[Any]:
    import msgspec

    events = [event for customer_id in ids for event in api.events(customer_id, reader)]
    return decode_messages(msgspec.json.encode(events))


def apply(api: Api, messages: list[Any]) -> None:
    api.resources.database.run(lambda uow: apply_customer_events(uow, messages))


def ended(api: Api, customer: Person) -> list[str]:
    with api.resources.database.read() as connection:
        return ended_sessions_of(connection, customer.id)


class TestApplyCustomerEvents:
    def test_agrees_with_the_owner_in_any_order_and_however_often(self, api: Api, admin: Person) -> None:
        people = [api.customer() for _ in range(5)]
        broker = api.customer(role=Role.BROKER)
        for person in people:
            api.request("PUT", f"/api/customers/{person.id}/tier", admin.username, json={"tier": "PREMIUM"})
            api.request("POST", f"/api/brokers/{broker.id}/customers", admin.username, json={"customer_id": person.id})
        api.request("PATCH", f"/api/customers/{people[0].id}", admin.username, json={"active": False})
        messages = messages_for(api, *[person.id for person in people], broker.id)
        shuffled = random.Random(5)
        directory = postgres_directory(api.resources.database)
        for _ in range(10):
            batch = shuffled.choices(messages, k=7)
            apply(api, batch)
        shuffled.shuffle(messages)
        apply(api, messages)
        for person in [*people, broker]:
            assert directory.get(person.id) == api.resources.principals.get(person.id)
        assert directory.get(people[1].id).brokers == {broker.id}
        assert not directory.get(people[0].id).active

    def test_nobody_is_not_cached(self, api: Api) -> None:
        person = api.customer()
        directory = postgres_directory(api.resources.database)
        assert directory.get(person.id) is None
        apply(api, messages_for(api, person.id))
        assert directory.get(person.id).username == person.username


class TestRepublish:
    def test_refills_a_projection_and_does_not_reach_the_auditor(self, api: Api, customer: Person) -> None:
        audited = len(api.events(customer.id))
        api.execute("DELETE FROM principals")
        count = customers.republish(api.resources.database)
        assert count >= 1
        assert len(api.events(customer.id)) == audited
        republished = [message for message in messages_for(api, customer.id) if message.type == "CustomerUpdated"]
        apply(api, republished)
        directory = postgres_directory(api.resources.database)
        assert directory.get(customer.id) == api.resources.principals.get(customer.id)
        preferences = [event["type"] for event in api.events(customer.id, "notifier")]
        assert "NotificationPreferencesChanged" in preferences

    def test_and_says_which_sessions_ended_just_now(self, api: Api, customer: Person) -> None:
        session = api.sign_in(customer.username).json()
        api.client.post("/api/auth/revoke", data={"token": session["refresh_token"]})
        [told] = [event for event in api.events(customer.id) if event["type"] == "SessionEnded"]
        customers.republish(api.resources.database)
        said = [message for message in messages_for(api, customer.id) if message.type == "SessionEnded"]
        assert [message.payload.session_id for message in said] == [told["payload"]["session_id"]] * 2
        assert [event["type"] for event in api.events(customer.id)].count("SessionEnded") == 1


class TestEndedSessions:
    def test_later_ends_count_in_any_order_and_old_ones_are_forgotten(self, api: Api, customer: Person) -> None:
        def end(session_id: str, seconds: float) -> Message[SessionEnded]:
            until = datetime.now(UTC) + timedelta(seconds=seconds)
            payload = SessionEnded(customer_id=customer.id, session_id=session_id, tokens_until=until)
            return create_message(payload, aggregate_id=str(customer.id))

        long, short = new_id(), new_id()
        apply(api, [end(long, 900), end(short, 1), end(long, 1)])
        apply(api, [end(long, 2)])
        assert set(ended(api, customer)) == {long, short}
        api.execute("UPDATE clock_offset SET value = '1 minute'")
        try:
            assert ended(api, customer) == [long]
            apply(api, [end(new_id(), -100)])
        finally:
            api.execute("UPDATE clock_offset SET value = '0'")
        assert ended(api, customer) == [long]
