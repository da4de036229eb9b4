"""Two workers with the same events in hand, step by step, on a real database."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from psycopg import errors
from small_service import Source, wait_until

from shared.contracts.message import Message, encode_messages
from shared.contracts.orders import ConfirmOrder
from shared.db.engine import Database
from shared.db.unit_of_work import Conflict, UnitOfWork
from shared.faults import inject
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.messaging.delivery import Batch, Delivery, Outcome
from shared.messaging.inbox import Inbox, InboxTransaction, Unavailable
from shared.messaging.postgres_inbox import PostgresInboxStore


def create_message(aggregate_id: str, version: int) -> Message[Any]:
    return Message(
        event_id=new_id(),
        type="ConfirmOrder",
        occurred_at=datetime.now(UTC),
        aggregate_type="Order",
        aggregate_id=aggregate_id,
        aggregate_version=version,
        organization_id=ROOT_ORGANIZATION_ID,
        correlation_id=new_id(),
        payload=ConfirmOrder(),
    )


def create_delivery(messages: Sequence[Message[Any]], deliveries: int = 1) -> Delivery:
    return Delivery("source", [Batch(new_id(), deliveries, msgspec.Raw(encode_messages(messages)))])


def again(delivery: Delivery, deliveries: int) -> Delivery:
    batches = [msgspec.structs.replace(batch, deliveries=deliveries) for batch in delivery.batches]
    return msgspec.structs.replace(delivery, batches=batches)


class Applied:
    """A handler that notes what was applied, in the transaction."""

    def __init__(self) -> None:
        self.before: Callable[[Sequence[Message[Any]]], None] = lambda messages: None

    def __call__(self, unit: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
        self.before(messages)
        for message in messages:
            unit.connection.execute(
                "INSERT INTO effects (consumer, aggregate_id, version) VALUES ('tests', %s, %s)",
                (message.aggregate_id, message.aggregate_version),
            )


@pytest.fixture
def handler() -> Applied:
    return Applied()


@pytest.fixture
def store(source: Source, handler: Applied) -> Iterator[PostgresInboxStore]:
    database = Database(source.url, name="consumer", pool_size=4, handler_limits=True)
    yield PostgresInboxStore(database, consumer="tests", handler=handler)
    database.close()


def waits_for_a_lock(source: Source) -> bool:
    return source.query(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    ) == [(1,)]


class TestClaim:
    def test_who_waited_for_a_claim_sees_what_it_parked(self, source: Source, store: PostgresInboxStore) -> None:
        """Read committed shows a statement what was committed before it began, and the claim that waits began before."""
        first, second = create_message("a", 1), create_message("a", 2)

        def park(tx: InboxTransaction) -> None:
            tx.claim([first.event_id], single=True)
            tx.park(first, "FAILED")
            claimed.set()
            assert go_on.wait(5)

        def claim_both(tx: InboxTransaction) -> tuple[set[str], set[str]]:
            return tx.claim([first.event_id, second.event_id], single=True), tx.blocked()

        claimed, go_on = threading.Event(), threading.Event()
        with ThreadPoolExecutor(2) as pool:
            parking = pool.submit(store.transaction, park)
            assert claimed.wait(5)
            waiting: Future[tuple[set[str], set[str]]] = pool.submit(store.transaction, claim_both)
            wait_until(lambda: waits_for_a_lock(source), 5)
            go_on.set()
            parking.result(5)
            assert waiting.result(5) == ({second.event_id}, {"a"})


class TestReceive:
    def test_a_repeated_delivery_has_no_effect_and_is_acknowledged_again(
        self, source: Source, store: PostgresInboxStore
    ) -> None:
        delivery = create_delivery([create_message("a", 1), create_message("a", 2)])
        for deliveries in (1, 1, 2, 3, 7):
            [acknowledgement] = Inbox(store).receive(again(delivery, deliveries))
            assert (acknowledgement.batch_id, acknowledgement.outcome) == (delivery.batches[0].id, Outcome.ACKED)
        assert source.effects("a") == [1, 2]

    def test_a_batch_that_another_worker_has_in_hand_is_waited_for(
        self, source: Source, store: PostgresInboxStore, handler: Applied
    ) -> None:
        """Its third delivery would be taken event by event: not before the first one has ended, and not if that one got through."""
        working, go_on = threading.Event(), threading.Event()

        def slowly(messages: Sequence[Message[Any]]) -> None:
            working.set()
            assert go_on.wait(5)

        handler.before = slowly
        delivery = create_delivery([create_message("a", 1), create_message("b", 1)])
        with ThreadPoolExecutor(2) as pool:
            slow = pool.submit(Inbox(store).receive, delivery)
            assert working.wait(5)
            third = pool.submit(Inbox(store).receive, again(delivery, 3))
            wait_until(lambda: waits_for_a_lock(source), 5)
            go_on.set()
            assert slow.result(5) == third.result(5)
        assert source.effects("a") == source.effects("b") == [1]

    def test_a_batch_split_by_another_worker_meanwhile_is_not_applied_whole(
        self, source: Source, store: PostgresInboxStore, handler: Applied
    ) -> None:
        delivery = create_delivery([create_message("a", 1), create_message("b", 1)])
        batch = delivery.batches[0]

        def split_elsewhere(point: str) -> None:
            # After this worker has looked, and before it claims.
            if point == "inbox.received":
                store.transaction(lambda tx: tx.mark_split([batch.id]))

        with inject(split_elsewhere):
            Inbox(store).receive(delivery)
        assert source.effects("a") == source.effects("b") == [1]
        Inbox(store).receive(again(delivery, 2))
        assert source.effects("a") == source.effects("b") == [1]

    def test_a_broken_payload_parks_its_event_only(self, source: Source, store: PostgresInboxStore) -> None:
        unknown = msgspec.structs.replace(create_message("a", 1), type="Unheard")
        newer = msgspec.structs.replace(create_message("b", 1), version=99)
        broken = msgspec.structs.replace(create_message("c", 1), payload={"unexpected": 1})
        delivery = create_delivery([unknown, newer, create_message("d", 1), broken])
        [acknowledgement] = Inbox(store).receive(delivery)
        assert acknowledgement.outcome is Outcome.PARKED
        assert source.effects("d") == [1]
        parked = source.query("SELECT aggregate_id FROM dead_letters WHERE status = 'PARKED' ORDER BY position")
        assert parked == [("a",), ("b",), ("c",)]


class TestAnEventThatKillsItsProcess:
    def test_lets_others_go_first_before_it_is_tried_again(
        self, source: Source, store: PostgresInboxStore, handler: Applied, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those done before it, in its own batch, are not taken for such."""

        def kill(messages: Sequence[Message[Any]]) -> None:
            if messages[0].aggregate_id == "killer":
                raise KeyboardInterrupt

        pauses: list[float] = []
        handler.before = kill
        inbox = Inbox(store, pause_seconds=2.5)
        monkeypatch.setattr(inbox, "_pause", pauses.append)
        delivery = create_delivery([create_message("a", 1), create_message("killer", 1), create_message("c", 1)])
        for number in range(3):
            inbox.let_others_go_first(again(delivery, number + 2))
            assert pauses == [2.5] * number
            with pytest.raises(KeyboardInterrupt):
                inbox.receive(again(delivery, number + 2))
        [acknowledgement] = inbox.receive(again(delivery, 5))
        assert acknowledgement.outcome is Outcome.PARKED
        inbox.let_others_go_first(again(delivery, 6))
        assert pauses == [2.5] * 2, "what is parked waits no more"
        assert source.effects("a") == source.effects("c") == [1]
        assert [(status, reason) for status, reason, _ in source.letters("killer")] == [
            ("PARKED", "the worker that tried it ended")
        ]


class TestAnOutage:
    """Met by an event that is tried alone; each delivery ends with it, and comes again."""

    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Database.run, "__kwdefaults__", {"context": None, "attempts": 1})

    def fail(self, handler: Applied, error: Exception) -> None:
        def stumble(_: Sequence[Message[Any]]) -> None:
            raise error

        handler.before = stumble

    def deliver_often(self, inbox: Inbox, delivery: Delivery) -> None:
        for number in range(3, 9):
            with pytest.raises(Unavailable):
                inbox.receive(again(delivery, number))

    def test_uses_up_no_attempt_of_the_event(self, source: Source, store: PostgresInboxStore, handler: Applied) -> None:
        inbox, delivery = Inbox(store), create_delivery([create_message("a", 1)])
        self.fail(handler, errors.AdminShutdown())
        self.deliver_often(inbox, delivery)
        handler.before = lambda messages: None
        [acknowledgement] = inbox.receive(again(delivery, 9))
        assert acknowledgement.outcome is Outcome.ACKED
        assert (source.effects("a"), source.letters("a")) == ([1], [])
        assert source.query("SELECT max(attempts) FROM processed_events") == [(1,)]

    def test_of_the_store_itself_is_taken_back_when_it_returns(
        self, source: Source, store: PostgresInboxStore, handler: Applied, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inbox, delivery = Inbox(store), create_delivery([create_message("a", 1)])
        transaction = store.transaction

        def unreachable(work: Callable[[InboxTransaction], Any]) -> Any:
            raise Unavailable("tests")

        def go_away(_: Sequence[Message[Any]]) -> None:
            monkeypatch.setattr(store, "transaction", unreachable)
            raise errors.AdminShutdown

        handler.before = go_away
        for number in range(3, 12, 2):
            for delivered in (number, number + 1):
                with pytest.raises(Unavailable):
                    inbox.receive(again(delivery, delivered))
            monkeypatch.setattr(store, "transaction", transaction)
        handler.before = lambda messages: None
        inbox.receive(again(delivery, 13))
        assert (source.effects("a"), source.letters("a")) == ([1], [])

    def test_is_not_what_stops_or_conflicts_in_its_own_transaction(
        self, source: Source, store: PostgresInboxStore, handler: Applied
    ) -> None:
        """Else it would be tried for ever, with its lane behind it."""
        for name, error in (("a", Conflict()), ("b", errors.IdleInTransactionSessionTimeout())):
            inbox, delivery = Inbox(store), create_delivery([create_message(name, 1)])
            self.fail(handler, error)
            for number in range(3, 6):
                with pytest.raises(Unavailable):
                    inbox.receive(again(delivery, number))
            [acknowledgement] = inbox.receive(again(delivery, 6))
            assert acknowledgement.outcome is Outcome.PARKED
            assert [(status, version) for status, _, version in source.letters(name)] == [("PARKED", 1)]


class TestAMalformedEvent:
    def delivery(self, *events: Any) -> Delivery:
        return Delivery("source", [Batch(new_id(), 1, msgspec.Raw(msgspec.json.encode(events)))])

    def test_is_parked_and_the_rest_of_its_batch_goes_on(
        self, source: Source, store: PostgresInboxStore, handler: Applied
    ) -> None:
        broken = msgspec.to_builtins(create_message("b", 1)) | {"occurred_at": "yesterday"}
        nameless = {"type": "ConfirmOrder", "payload": {}}
        delivery = self.delivery(
            create_message("a", 1), broken, nameless, 7, create_message("b", 2), create_message("c", 1)
        )
        inbox = Inbox(store)
        for _ in range(2):
            [acknowledgement] = inbox.receive(delivery)
            assert acknowledgement.outcome is Outcome.PARKED
        assert [source.effects(name) for name in ("a", "b", "c")] == [[1], [], [1]]
        assert source.letters("b") == [("PARKED", "MALFORMED", 1), ("HELD", HELD, 2)]
        kept = source.query("SELECT message FROM dead_letters WHERE reason = 'MALFORMED' ORDER BY position")
        assert kept == [(broken,), (nameless,), (7,)]
        assert source.query("SELECT count(*) FROM processed_events WHERE state <> 'DONE'") == [(0,)]

    def test_whose_header_has_no_id_is_parked_once_however_often_it_comes(
        self, source: Source, store: PostgresInboxStore, handler: Applied
    ) -> None:
        inbox = Inbox(store)
        for _ in range(2):
            inbox.receive(self.delivery({"event_id": "one", "aggregate_id": "a"}))
        inbox.receive(self.delivery(create_message("b", 1)))
        assert source.letters("a") == [("PARKED", "MALFORMED", 1)]
        assert source.effects("b") == [1]

    def test_may_be_all_there_is_instead_of_events(
        self, source: Source, store: PostgresInboxStore, handler: Applied
    ) -> None:
        delivery = Delivery("source", [Batch(new_id(), 1, msgspec.Raw(b'{"no": "events"}'))])
        [acknowledgement] = Inbox(store).receive(delivery)
        assert acknowledgement.outcome is Outcome.PARKED
        assert source.query("SELECT message FROM dead_letters") == [({"no": "events"},)]


HELD = "waits behind a parked event of its aggregate"
