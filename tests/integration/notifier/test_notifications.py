"""Events become notifications: one per customer, event and template, as the customer wants them."""

import itertools
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from pymongo import monitoring

from notifier.documents import NOTIFICATIONS
from notifier.service import Notifier
from notifier.settings import Settings
from notifier.tasks import start_consumer
from shared.contracts.assets import FundsDeposited
from shared.contracts.customers import CustomerRegistered, CustomerTierChanged, CustomerUpdated
from shared.contracts.orders import OrderCanceled, OrderConfirmed
from shared.messaging.delivery import Outcome
from shared.mongo import MongoDatabase
from shared.testing.messages import (
    create_customer_event,
    create_delivery,
    create_message,
    create_order_event,
    create_preferences_event,
)
from shared.testing.servers import LocalMongo

Found = Callable[[int], list[dict[str, Any]]]
_customers = itertools.count(1000)


class Counted(monitoring.CommandListener):
    """The names of the commands sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: Any) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...


@pytest.fixture
def customer() -> int:
    return next(_customers)


@pytest.fixture
def mailing(database: MongoDatabase, mongo: LocalMongo) -> Notifier:
    """With a mail server configured; nothing is sent without a relay."""
    return Notifier(database, Settings(mongo_url=mongo.url, smtp_url="smtp://127.0.0.1:1"))


class TestHandle:
    def test_an_event_becomes_one_notification_with_all_its_channels(
        self, notifier: Notifier, found: Found, customer: int
    ) -> None:
        event = create_order_event(OrderConfirmed, customer)
        notifier.handle([create_customer_event(CustomerRegistered, customer), event])
        [stored] = found(customer)
        assert stored["_id"] == stored["notification_id"]
        assert (stored["event_id"], stored["template"], stored["type"]) == (
            event.event_id,
            "order_confirmed",
            "ORDER_CONFIRMED",
        )
        assert stored["related_entity"] == {"type": "order", "id": event.aggregate_id}
        assert stored["channels"].keys() == {"in_app", "email", "sms", "push", "websocket"}
        assert stored["channels"]["in_app"]["status"] == "DELIVERED"
        assert stored["channels"]["email"] == {"status": "SKIPPED", "reason": "channel-not-configured"}
        assert (stored["read_status"], stored["read_at"]) == ("UNREAD", None)
        assert stored["expires_at"] - stored["created_at"] == timedelta(days=90)

    def test_the_same_event_again_adds_nothing(self, notifier: Notifier, found: Found, customer: int) -> None:
        first, second = create_order_event(OrderConfirmed, customer), create_order_event(OrderCanceled, customer)
        notifier.handle([first])
        notifier.handle([second, first, second])
        assert sorted(stored["event_id"] for stored in found(customer)) == sorted([first.event_id, second.event_id])

    def test_the_same_batch_in_eight_threads_at_once_adds_each_once(
        self, notifier: Notifier, found: Found, customer: int
    ) -> None:
        events = [create_order_event(OrderConfirmed, customer) for _ in range(50)]
        threads = [threading.Thread(target=notifier.handle, args=(events,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(stored["event_id"] for stored in found(customer)) == sorted(e.event_id for e in events)

    @pytest.mark.parametrize(
        ("smtp_url", "commands"),
        [
            ("smtp://127.0.0.1:1", ["update", "update", "find", "find", "insert"]),
            (None, ["update", "update", "insert"]),
        ],
    )
    def test_the_number_of_commands_does_not_depend_on_the_size_of_the_batch(
        self, mongo: LocalMongo, customer: int, smtp_url: str | None, commands: list[str]
    ) -> None:
        """Contacts and preferences are read only where somebody can be reached by them."""
        counted = Counted()
        monitoring.register(counted)
        try:
            database = MongoDatabase(mongo.url, "notifier")
        finally:
            monitoring._LISTENERS.command_listeners.remove(counted)
        notifier = Notifier(database, Settings(mongo_url=mongo.url, smtp_url=smtp_url))
        counts = []
        for size in (1, 500):
            counted.names.clear()
            notifier.handle(
                [
                    create_customer_event(CustomerRegistered, customer),
                    *(create_order_event(OrderConfirmed, customer) for _ in range(size)),
                ]
            )
            counts.append(list(counted.names))
        database.close()
        assert counts[0] == counts[1] == commands

    def test_transfers_and_account_changes_are_told_too(self, notifier: Notifier, found: Found, customer: int) -> None:
        deposit = FundsDeposited(asset_name="TRY", amount=Decimal("10.50"), reference="r")
        notifier.handle(
            [
                create_message(deposit, customer_id=customer),
                create_customer_event(CustomerTierChanged, customer, version=2),
            ]
        )
        assert sorted(stored["type"] for stored in found(customer)) == ["CUSTOMER_TIER_CHANGED", "FUNDS_DEPOSITED"]

    def test_expired_notifications_disappear(
        self, database: MongoDatabase, mongo: LocalMongo, found: Found, customer: int
    ) -> None:
        notifier = Notifier(database, Settings(mongo_url=mongo.url, notifications_kept_seconds=-1))
        notifier.handle([create_order_event(OrderConfirmed, customer)])
        assert found(customer) == []

    def test_the_indexes_are_those_of_the_design(self, database: MongoDatabase) -> None:
        indexes = {name: dict(spec["key"]) for name, spec in database[NOTIFICATIONS].index_information().items()}
        assert indexes["idx_customer_date"] == {"customer_id": 1, "created_at": -1, "_id": -1}
        assert indexes["idx_customer_read_status"] == {"customer_id": 1, "read_status": 1}
        assert next(iter(indexes["idx_email_status"])) == "channels.email.status"
        assert database[NOTIFICATIONS].index_information()["ttl_expires_at"]["expireAfterSeconds"] == 0


class TestPreferences:
    def email(self, found: Found, customer: int) -> list[dict[str, Any]]:
        return [stored["channels"]["email"] for stored in found(customer)]

    def test_an_e_mail_is_intended_where_it_is_wanted(self, mailing: Notifier, found: Found, customer: int) -> None:
        mailing.handle(
            [create_customer_event(CustomerRegistered, customer), create_order_event(OrderConfirmed, customer)]
        )
        [email] = self.email(found, customer)
        assert (email["status"], email["recipient"]) == ("PENDING", f"user{customer}@example.com")

    def test_who_wants_no_e_mail_gets_none_but_is_told_in_the_app(
        self, mailing: Notifier, found: Found, customer: int
    ) -> None:
        mailing.handle(
            [
                create_customer_event(CustomerRegistered, customer),
                create_preferences_event(customer, version=2, email_enabled=False),
            ]
        )
        mailing.handle([create_order_event(OrderConfirmed, customer)])
        [stored] = found(customer)
        assert stored["channels"]["email"] == {"status": "SKIPPED", "reason": "disabled-by-preference"}
        assert stored["channels"]["in_app"]["status"] == "DELIVERED"

    def test_a_muted_event_type_is_not_sent_and_others_are(
        self, mailing: Notifier, found: Found, customer: int
    ) -> None:
        mailing.handle([create_preferences_event(customer, version=1, preferences={"OrderConfirmed": False})])
        mailing.handle([create_order_event(OrderConfirmed, customer), create_order_event(OrderCanceled, customer)])
        assert [email["status"] for email in self.email(found, customer)] == ["SKIPPED", "PENDING"]

    def test_a_change_counts_for_later_events_of_the_same_batch(
        self, mailing: Notifier, found: Found, customer: int
    ) -> None:
        mailing.handle(
            [
                create_preferences_event(customer, version=3, email_enabled=False),
                create_preferences_event(customer, version=2, email_enabled=True),
                create_order_event(OrderConfirmed, customer),
            ]
        )
        assert [email["status"] for email in self.email(found, customer)] == ["SKIPPED"]

    def test_an_older_state_that_arrives_late_changes_nothing(
        self, mailing: Notifier, found: Found, customer: int
    ) -> None:
        mailing.handle([create_customer_event(CustomerUpdated, customer, version=5, email="new@example.com")])
        mailing.handle([create_customer_event(CustomerUpdated, customer, version=4, email="old@example.com")])
        mailing.handle([create_preferences_event(customer, version=5)])
        mailing.handle([create_order_event(OrderConfirmed, customer)])
        assert [email["recipient"] for email in self.email(found, customer)] == ["new@example.com"]


class TestConsumer:
    def test_a_delivery_has_its_effect_once_and_is_acknowledged_each_time(
        self, mongo: LocalMongo, monkeypatch: pytest.MonkeyPatch, found: Found, customer: int
    ) -> None:
        monkeypatch.setenv("BROKAGE_MONGO_URL", mongo.url)
        consumer = start_consumer()
        event = create_order_event(OrderConfirmed, customer)
        delivery = create_delivery([event])
        for _ in range(2):
            assert [answer.outcome for answer in consumer.receive(delivery)] == [Outcome.ACKED]
        assert [stored["event_id"] for stored in found(customer)] == [event.event_id]
        consumer.close()
