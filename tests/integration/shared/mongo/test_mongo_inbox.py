"""The delivery protocol's receiving side on MongoDB: effects once per event, whatever breaks in between."""

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from pymongo.errors import AutoReconnect, BulkWriteError, ServerSelectionTimeoutError

from shared.contracts.message import Message
from shared.contracts.orders import OrderConfirmed
from shared.faults import InjectedFault, inject
from shared.messaging.delivery import Delivery, Outcome
from shared.messaging.inbox import Inbox, Unavailable
from shared.mongo import MongoDatabase, MongoInboxStore, only_duplicates
from shared.mongo.inbox import DEAD_LETTERS, PROCESSED, inbox_indexes
from shared.testing.messages import create_delivery, create_order_event

POISON = 666


class Effects:
    """A handler as the house rules want it: one document per event, repeats refused by the key and passed over."""

    def __init__(self, database: MongoDatabase) -> None:
        self._collection = database["effects"]
        self.calls: list[list[str]] = []

    def handle(self, messages: Sequence[Message[Any]]) -> None:
        self.calls.append([message.event_id for message in messages])
        try:
            self._collection.insert_many([{"_id": message.event_id} for message in messages], ordered=False)
        except BulkWriteError as error:
            assert only_duplicates(error)
        if any(message.customer_id == POISON for message in messages):
            raise ValueError("poison")

    def stored(self) -> set[str]:
        return {row["_id"] for row in self._collection.find()}


@pytest.fixture
def effects(database: MongoDatabase) -> Effects:
    return Effects(database)


@pytest.fixture
def inbox(database: MongoDatabase, effects: Effects) -> Inbox:
    return Inbox(MongoInboxStore(database, consumer="reader", handler=effects.handle))


def ids(messages: Sequence[Message[Any]]) -> set[str]:
    return {message.event_id for message in messages}


def events(count: int, **values: Any) -> list[Message[Any]]:
    return [create_order_event(OrderConfirmed, **values) for _ in range(count)]


class TestWholeBatches:
    def test_a_delivery_has_its_effect_and_is_acknowledged(self, inbox: Inbox, effects: Effects) -> None:
        first, second = events(3), events(2)
        delivery = create_delivery(first, second)
        answers = inbox.receive(delivery)
        assert [(a.batch_id, a.outcome) for a in answers] == [(b.id, Outcome.ACKED) for b in delivery.batches]
        assert effects.stored() == ids(first + second)

    def test_a_repeated_delivery_is_acknowledged_without_being_handled(self, inbox: Inbox, effects: Effects) -> None:
        delivery = create_delivery(events(3))
        inbox.receive(delivery)
        assert inbox.receive(delivery)[0].outcome is Outcome.ACKED
        assert len(effects.calls) == 1

    @pytest.mark.parametrize("point", ["inbox.claimed", "mongo_inbox.handled", "mongo_inbox.before_done"])
    def test_a_crash_before_done_repeats_the_batch_without_doubling_it(
        self, inbox: Inbox, effects: Effects, database: MongoDatabase, point: str
    ) -> None:
        messages = events(3)
        delivery = create_delivery(messages)

        def crash(name: str) -> None:
            if name == point:
                raise KeyboardInterrupt  # what no handler of errors catches: the process is gone

        with inject(crash), pytest.raises(KeyboardInterrupt):
            inbox.receive(delivery)
        assert database[PROCESSED].count_documents({}) == 0
        assert inbox.receive(delivery)[0].outcome is Outcome.ACKED
        assert effects.stored() == ids(messages)

    def test_the_same_delivery_at_two_workers_at_once_has_its_effect_once(
        self, inbox: Inbox, effects: Effects, database: MongoDatabase
    ) -> None:
        messages = events(100)
        delivery = create_delivery(messages)
        threads = [threading.Thread(target=inbox.receive, args=(delivery,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert effects.stored() == ids(messages)
        assert database[PROCESSED].count_documents({"state": "DONE"}) == 1

    def test_an_error_in_the_handler_splits_the_batch(self, inbox: Inbox, effects: Effects) -> None:
        messages = events(2)
        failed: list[str] = []

        def once(name: str) -> None:
            if name == "mongo_inbox.handled" and not failed:
                failed.append(name)
                raise InjectedFault(name)

        with inject(once):
            assert inbox.receive(create_delivery(messages))[0].outcome is Outcome.ACKED
        assert effects.stored() == ids(messages)


class TestPoison:
    def test_one_event_is_parked_and_all_others_have_their_effect(
        self, inbox: Inbox, effects: Effects, database: MongoDatabase
    ) -> None:
        good = events(4)
        [bad] = events(1, customer_id=POISON)
        delivery = create_delivery([*good[:2], bad, *good[2:]])
        assert inbox.receive(delivery)[0].outcome is Outcome.PARKED
        assert effects.stored() >= ids(good)
        [letter] = database[DEAD_LETTERS].find()
        assert (letter["event_id"], letter["status"], letter["reason"]) == (
            bad.event_id,
            "PARKED",
            "ValueError: poison",
        )
        assert database[PROCESSED].find_one({"_id": bad.event_id})["attempts"] == 4  # type: ignore[index]
        inbox.receive(delivery)
        assert database[DEAD_LETTERS].count_documents({}) == 1

    def test_later_events_of_its_aggregate_are_held_in_order(self, inbox: Inbox, database: MongoDatabase) -> None:
        [bad] = events(1, customer_id=POISON)
        later = [msgspec.structs.replace(event, aggregate_id=bad.aggregate_id) for event in events(3)]
        others = events(2)
        inbox.receive(create_delivery([bad]))
        inbox.receive(create_delivery([later[0], *others, *later[1:]]))
        held = list(database[DEAD_LETTERS].find({"status": "HELD"}).sort("_id", 1))
        assert [letter["event_id"] for letter in held] == [event.event_id for event in later]

    def test_an_event_that_is_too_old_is_parked_as_stale(
        self, inbox: Inbox, effects: Effects, database: MongoDatabase
    ) -> None:
        [old] = events(1)
        old = msgspec.structs.replace(old, occurred_at=datetime.now(UTC) - timedelta(days=31))
        fresh = events(1)
        assert inbox.receive(create_delivery([old, *fresh]))[0].outcome is Outcome.PARKED
        assert effects.stored() == ids(fresh)
        assert database[DEAD_LETTERS].find_one()["reason"] == "STALE"  # type: ignore[index]

    def test_a_delivery_that_keeps_killing_its_worker_is_taken_event_by_event(
        self, inbox: Inbox, database: MongoDatabase, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Attempts are counted before the work, so they count although nothing after them happens. Others go before the next."""
        pauses: list[float] = []
        monkeypatch.setattr(inbox, "_pause", pauses.append)
        [bad] = events(1)
        batch = create_delivery([bad], deliveries=3).batches[0]
        delivery = Delivery("order_service", [batch])

        def kill(name: str) -> None:
            if name == "inbox.attempt_counted":
                raise KeyboardInterrupt

        for number in range(3):
            inbox.let_others_go_first(delivery)
            assert len(pauses) == number
            with inject(kill), pytest.raises(KeyboardInterrupt):
                inbox.receive(delivery)
        assert inbox.receive(delivery)[0].outcome is Outcome.PARKED
        assert database[DEAD_LETTERS].count_documents({"event_id": bad.event_id}) == 1
        inbox.let_others_go_first(delivery)
        assert len(pauses) == 2, "what is parked waits no more"


class TestOutage:
    def test_a_store_that_is_away_leaves_the_delivery_unacknowledged_and_holds_nobody_up(self) -> None:
        database = MongoDatabase("mongodb://127.0.0.1:1", "nowhere", indexes=inbox_indexes(kept_seconds=1))
        inbox = Inbox(MongoInboxStore(database, consumer="reader", handler=lambda messages: None))
        began = time.monotonic()
        for _ in range(20):
            with pytest.raises(Unavailable):
                inbox.receive(create_delivery(events(1)))
        assert time.monotonic() - began < 4, "one wait for the server, and none while it is known to be away"
        database.close()

    def test_it_goes_on_when_the_store_is_back(
        self, database: MongoDatabase, effects: Effects, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shared.mongo.inbox.DOWN_SECONDS", 0.05)
        away = [ServerSelectionTimeoutError("away")]

        def handle(messages: Sequence[Message[Any]]) -> None:
            if away:
                raise away.pop()
            effects.handle(messages)

        inbox = Inbox(MongoInboxStore(database, consumer="reader", handler=handle))
        messages = events(2)
        delivery = create_delivery(messages)
        with pytest.raises(Unavailable):
            inbox.receive(delivery)
        time.sleep(0.1)
        assert inbox.receive(delivery)[0].outcome is Outcome.ACKED
        assert effects.stored() == ids(messages)

    def test_a_short_failure_is_not_even_noticed(self, database: MongoDatabase, effects: Effects) -> None:
        failures = [AutoReconnect("failing over"), AutoReconnect("still")]

        def handle(messages: Sequence[Message[Any]]) -> None:
            effects.handle(messages)
            if failures:
                raise failures.pop()

        inbox = Inbox(MongoInboxStore(database, consumer="reader", handler=handle))
        messages = events(3)
        assert inbox.receive(create_delivery(messages))[0].outcome is Outcome.ACKED
        assert effects.stored() == ids(messages)
