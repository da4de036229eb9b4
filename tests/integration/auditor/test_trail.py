"""Events enter the trail once each, in one chain, whoever writes and whatever breaks in between."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from auditor import documents
from auditor.chain import GENESIS, Verification
from auditor.documents import HEAD, INTAKE, LOGS
from auditor.keeping import Keeping
from auditor.records import content_from_event
from auditor.service import Auditor, chain_intake
from auditor.settings import Settings
from auditor.tasks import start_consumer
from auditor.writer import ChainWriter
from shared.contracts.customers import CustomerRegistered, CustomerUpdated
from shared.contracts.message import Message
from shared.contracts.orders import OrderConfirmed
from shared.contracts.system import AdminActed
from shared.db.engine import DatabaseUnavailable
from shared.faults import InjectedFault, inject
from shared.messaging.delivery import Outcome
from shared.mongo import MongoDatabase, MongoPrincipals
from shared.testing.messages import create_customer_event, create_delivery, create_message, create_order_event
from shared.testing.servers import LocalMongo


def create_events(count: int) -> list[Message[Any]]:
    return [create_order_event(OrderConfirmed) for _ in range(count)]


def ids(messages: list[Message[Any]]) -> list[str]:
    return [message.event_id for message in messages]


def verify(database: MongoDatabase) -> Verification:
    """Without anything outside of the store."""
    return Keeping(database, Settings(mongo_url="unused"), None, None).verify()


class TestHandle:
    def test_each_event_is_one_record_in_order(self, trail: Any) -> None:
        messages = trail.record(3) + trail.record(2)
        records = trail.records()
        assert [record["event_id"] for record in records] == ids(messages)
        assert [record["seq"] for record in records] == [1, 2, 3, 4, 5]
        assert records[0]["prev_hash"] == GENESIS
        assert verify(trail.database).valid

    def test_the_same_events_again_add_nothing(self, trail: Any) -> None:
        messages = create_events(5)
        trail.auditor.handle(messages)
        trail.auditor.handle(messages)
        trail.auditor.handle([messages[2], messages[2]])
        assert trail.event_ids() == ids(messages)
        assert verify(trail.database).records == 5

    def test_of_a_batch_that_is_partly_there_the_rest_is_added(self, trail: Any) -> None:
        messages = create_events(6)
        trail.auditor.handle([messages[1], messages[4]])
        trail.auditor.handle(messages)
        assert sorted(trail.event_ids()) == sorted(ids(messages))
        assert verify(trail.database).valid

    def test_an_event_twice_in_one_batch_is_one_record(self, trail: Any) -> None:
        [message, other] = create_events(2)
        trail.auditor.handle([message, other, message])
        assert trail.event_ids() == ids([message, other])
        assert verify(trail.database).valid

    def test_a_state_said_again_is_no_change_but_keeps_the_projection(self, trail: Any) -> None:
        trail.auditor.handle([create_customer_event(CustomerUpdated, 71, after=None)])
        assert trail.records() == []
        principal = MongoPrincipals(trail.database).get(71)
        assert principal is not None
        assert principal.username == "user71"

    def test_no_personal_data_reaches_the_trail(self, trail: Any) -> None:
        trail.auditor.handle([create_customer_event(CustomerRegistered, 72, email="canary@example.com")])
        assert "canary" not in repr(trail.records())

    def test_the_number_of_commands_does_not_depend_on_the_size_of_the_batch(self, trail: Any) -> None:
        """The time of one command per event would show: a batch of 500 takes well under a second."""
        began = time.monotonic()
        trail.record(500)
        assert time.monotonic() - began < 2
        assert verify(trail.database).records == 500

    @pytest.mark.parametrize(
        "subject", [{"$set": {"a.b": 1}}, {"a": {"$ne": None}}, {"": 1}, {"ğ": [None, True, 1.5, -(2**62), 2**80]}]
    )
    def test_what_looks_like_an_operator_is_only_content(self, trail: Any, subject: dict[str, Any]) -> None:
        trail.auditor.handle([create_message(AdminActed(action="act", subject=subject), aggregate_id="1")])
        assert verify(trail.database).records == 1
        assert verify(trail.database).valid

    def test_the_unique_keys_are_there_and_nothing_expires(self, trail: Any) -> None:
        indexes = trail.database[LOGS].index_information()
        unique = {name for name, spec in indexes.items() if spec.get("unique")}
        assert unique == {"uq_audit_logs_seq", "uq_audit_logs_event_id"}
        assert not any("expireAfterSeconds" in spec for spec in indexes.values())


class TestWriters:
    def test_many_writers_at_once_make_one_chain(self, database: MongoDatabase, trail: Any) -> None:
        """Each with a lock of its own, as in processes of their own; some of what they write is the same."""
        common = create_events(30)
        batches = [[*create_events(30), *common] for _ in range(6)]
        errors: list[Exception] = []

        def write(batch: list[Message[Any]]) -> None:
            auditor = Auditor(database, ChainWriter(database, wait_seconds=30))
            try:
                for start in range(0, 60, 10):
                    auditor.handle(batch[start : start + 10])
            except Exception as error:  # noqa: BLE001 - reported below
                errors.append(error)

        threads = [threading.Thread(target=write, args=(batch,)) for batch in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        found = verify(database)
        assert (found.valid, found.records) == (True, 6 * 30 + 30)

    def test_the_chain_is_right_even_if_nobody_respects_the_lease(
        self, database: MongoDatabase, trail: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lease saves work; what guards the chain is the unique `seq`."""

        def take(self: ChainWriter, now: Any) -> Any:
            return database[HEAD].find_one({"_id": "chain"})

        trail.record(1)
        monkeypatch.setattr(ChainWriter, "_take", take)
        batches = [create_events(20) for _ in range(4)]
        unavailable: list[Exception] = []

        def write(batch: list[Message[Any]]) -> None:
            writer = ChainWriter(database)
            for message in batch:
                while True:
                    try:
                        writer.append([content_from_event(message)])
                        break
                    except DatabaseUnavailable as error:
                        unavailable.append(error)

        threads = [threading.Thread(target=write, args=(batch,)) for batch in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = verify(database)
        assert (found.valid, found.records) == (True, 81)

    @pytest.mark.parametrize("point", ["auditor.before_head", "mongo_inbox.before_done"])
    def test_a_crash_after_the_records_chains_nothing_twice(
        self, database: MongoDatabase, trail: Any, point: str, mongo: LocalMongo, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BROKAGE_MONGO_URL", mongo.url)
        monkeypatch.setenv("BROKAGE_AUDIT_LEASE_SECONDS", "0.2")
        monkeypatch.setattr("auditor.tasks.documents.NAME", database.name)
        messages = create_events(4)
        delivery = create_delivery(messages)

        def crash(name: str) -> None:
            if name == point:
                raise KeyboardInterrupt

        consumer = start_consumer()
        with inject(crash), pytest.raises(KeyboardInterrupt):
            consumer.receive(delivery)
        consumer.close()
        assert len(trail.records()) == 4
        again = start_consumer()
        assert again.receive(delivery)[0].outcome is Outcome.ACKED
        more = create_events(2)
        assert again.receive(create_delivery(more))[0].outcome is Outcome.ACKED
        again.close()
        assert trail.event_ids() == ids(messages + more)
        assert verify(database).valid

    @pytest.mark.parametrize("nth", [1, 2, 4])
    def test_a_crash_between_two_pieces_leaves_no_gap_and_chains_nothing_twice(
        self, database: MongoDatabase, nth: int
    ) -> None:
        contents = [content_from_event(message) for message in create_events(7)]
        passed: list[str] = []

        def crash(name: str) -> None:
            passed.append(name)
            if passed.count("auditor.chained") == nth:
                raise KeyboardInterrupt

        with inject(crash), pytest.raises(KeyboardInterrupt):
            ChainWriter(database, lease_seconds=0.1, piece=2).append(contents)
        found = verify(database)
        assert (found.valid, found.records) == (True, min(2 * nth, 7))
        ChainWriter(database, piece=2).append(contents)
        found = verify(database)
        assert (found.valid, found.records) == (True, 7)

    def test_a_writer_that_lost_the_chain_between_two_pieces_goes_on_behind_the_other(
        self, database: MongoDatabase, trail: Any
    ) -> None:
        """The other takes the chain over as after a stop of the first."""
        contents = [content_from_event(message) for message in create_events(6)]
        others = create_events(3)
        passed: list[str] = []

        def overtake(name: str) -> None:
            passed.append(name)
            if passed.count("auditor.chained") == 1 and name == "auditor.chained":
                with inject(lambda name: None):
                    Auditor(database, ChainWriter(database, piece=2)).handle(others)

        with inject(overtake):
            ChainWriter(database, lease_seconds=0.0, piece=2).append(contents)
        found = verify(database)
        assert (found.valid, found.records) == (True, 9)
        stored = trail.event_ids()
        assert [event for event in stored if event not in ids(others)] == [content["event_id"] for content in contents]
        assert [event for event in stored if event in ids(others)] == ids(others)

    def test_what_cannot_be_recorded_stops_what_follows_and_nothing_before(
        self, database: MongoDatabase, trail: Any
    ) -> None:
        contents = [content_from_event(message) for message in create_events(5)]
        contents[3] = {**contents[3], "new_value": {"price": object()}}
        with pytest.raises(TypeError):
            ChainWriter(database, piece=2).append(contents)
        assert trail.event_ids() == [content["event_id"] for content in contents[:2]]
        contents[3] = content_from_event(create_events(1)[0])
        ChainWriter(database, piece=2).append(contents)
        assert trail.event_ids() == [content["event_id"] for content in contents]
        assert verify(database).valid

    def test_after_an_error_others_need_not_wait_for_the_lease(self, database: MongoDatabase, trail: Any) -> None:
        def fail(name: str) -> None:
            if name == "auditor.before_head":
                raise InjectedFault(name)

        with inject(fail), pytest.raises(InjectedFault):
            trail.record(2)
        began = time.monotonic()
        Auditor(database, ChainWriter(database)).handle(create_events(1))
        assert time.monotonic() - began < 2
        assert verify(database).records == 3

    def test_a_writer_that_does_not_end_makes_others_give_up_for_now(self, database: MongoDatabase, trail: Any) -> None:
        trail.record(1)
        stalled = ChainWriter(database, lease_seconds=30)
        stalled._acquire()
        with pytest.raises(DatabaseUnavailable):
            ChainWriter(database, wait_seconds=0.1).append([content_from_event(create_events(1)[0])])


class TestIntake:
    def put(self, database: MongoDatabase) -> str:
        content = content_from_event(create_events(1)[0])
        documents.put_intake(database, content)
        event_id: str = content["event_id"]
        return event_id

    def test_what_waits_is_chained_in_order_and_then_gone(self, database: MongoDatabase, trail: Any) -> None:
        waiting = [self.put(database) for _ in range(3)]
        assert chain_intake(database, ChainWriter(database)) == 3
        assert trail.event_ids() == waiting
        assert database[INTAKE].count_documents({}) == 0
        assert chain_intake(database, ChainWriter(database)) == 0

    def test_a_crash_before_it_is_gone_chains_nothing_twice(self, database: MongoDatabase, trail: Any) -> None:
        waiting = [self.put(database) for _ in range(3)]

        def crash(name: str) -> None:
            if name == "auditor.before_head":
                raise InjectedFault(name)

        with inject(crash), pytest.raises(InjectedFault):
            chain_intake(database, ChainWriter(database))
        assert database[INTAKE].count_documents({}) == 3
        chain_intake(database, ChainWriter(database))
        assert trail.event_ids() == waiting
        assert verify(database).valid


Tamper = Callable[[MongoDatabase], object]


def swap(database: MongoDatabase) -> None:
    """Records 5 and 6 in each other's place."""
    database[LOGS].update_one({"seq": 5}, {"$set": {"seq": -1}})
    database[LOGS].update_one({"seq": 6}, {"$set": {"seq": 5}})
    database[LOGS].update_one({"seq": -1}, {"$set": {"seq": 6}})


def insert(database: MongoDatabase) -> None:
    """A forged record in place 5, and all later ones moved up."""
    for seq in range(10, 4, -1):
        database[LOGS].update_one({"seq": seq}, {"$set": {"seq": seq + 1}})
    forged = database[LOGS].find_one({"seq": 4})
    assert forged is not None
    database[LOGS].insert_one({**forged, "_id": "forged", "event_id": "forged", "seq": 5})


def flip(database: MongoDatabase) -> None:
    record = database[LOGS].find_one({"seq": 5})
    assert record is not None
    hash = record["new_value"]["size"]
    database[LOGS].update_one({"seq": 5}, {"$set": {"new_value.size": hash[:-1] + chr(ord(hash[-1]) ^ 1)}})


TAMPERINGS: dict[str, tuple[Tamper, int, str]] = {
    "byte flip": (flip, 5, "changed"),
    "field added": (lambda db: db[LOGS].update_one({"seq": 5}, {"$set": {"x": 1}}), 5, "changed"),
    "who": (lambda db: db[LOGS].update_one({"seq": 5}, {"$set": {"user_id": 1}}), 5, "changed"),
    "middle delete": (lambda db: db[LOGS].delete_one({"seq": 5}), 5, "missing"),
    "first delete": (lambda db: db[LOGS].delete_one({"seq": 1}), 1, "missing"),
    "reorder": (swap, 5, "reordered"),
    "insert": (insert, 5, "inserted"),
    "tail cut": (lambda db: db[LOGS].delete_many({"seq": {"$gt": 7}}), 8, "tail-cut"),
    "all deleted": (lambda db: db[LOGS].delete_many({}), 1, "tail-cut"),
}


class TestVerify:
    @pytest.mark.parametrize("name", TAMPERINGS)
    def test_tampering_is_found_and_its_first_place_named(self, trail: Any, name: str) -> None:
        tamper, seq, reason = TAMPERINGS[name]
        trail.record(10)
        assert verify(trail.database).valid
        tamper(trail.database)
        found = verify(trail.database)
        assert not found.valid
        assert found.first_bad is not None
        assert (found.first_bad.seq, found.first_bad.reason) == (seq, reason)

    def test_a_cut_tail_stays_found_when_the_trail_goes_on(self, trail: Any) -> None:
        trail.record(10)
        trail.database[LOGS].delete_many({"seq": {"$gt": 7}})
        trail.record(3)
        found = verify(trail.database)
        assert found.first_bad is not None
        assert (found.first_bad.seq, found.first_bad.reason) == (8, "missing")

    def test_a_trail_that_is_written_meanwhile_is_valid(self, trail: Any) -> None:
        trail.record(50)
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                trail.record(5)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            assert all(verify(trail.database).valid for _ in range(20))
        finally:
            stop.set()
            thread.join()

    def test_an_empty_trail_is_valid(self, database: MongoDatabase) -> None:
        found = verify(database)
        assert (found.valid, found.records, found.head.seq) == (True, 0, 0)
