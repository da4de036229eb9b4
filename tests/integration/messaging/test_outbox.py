"""What one transaction says to several readers: each has all of it, in order, and what is the same is written once."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row
from small_service import Source, settings_of

from shared.contracts.message import lane_of, partition_of
from shared.contracts.orders import ConfirmOrder
from shared.db.engine import Database
from shared.db.unit_of_work import UnitOfWork
from shared.messaging import runtime
from shared.messaging.outbox import BATCH_EVENTS_MAX, PostgresOutbox

READERS = ("processor", "notifier", "auditor")
Said = Sequence[tuple[str, tuple[str, ...]]]
"""Aggregates and who is told of each, in order."""


@pytest.fixture
def say(source: Source) -> Iterator[Callable[[Said], None]]:
    """Say these in one transaction."""
    database = Database(source.url, name="test", pool_size=1)

    def work(unit: UnitOfWork, said: Said) -> None:
        for aggregate_id, readers in said:
            unit.record(ConfirmOrder(), aggregate_id=aggregate_id, readers=readers)

    yield lambda said: database.run(lambda unit: work(unit, said))
    database.close()


def batches(source: Source) -> list[dict[str, Any]]:
    with psycopg.connect(source.url, row_factory=dict_row) as connection:
        return connection.execute("SELECT * FROM outbox_events ORDER BY seq").fetchall()


def told(rows: Sequence[dict[str, Any]], reader: str, lane: int) -> list[str]:
    """The aggregates of a lane's events, as the relay would send them."""
    lanes = [row for row in rows if (row["destination"], row["lane"]) == (reader, lane)]
    return [event["aggregate_id"] for row in lanes for event in row["payload"]]


def one_lane(count: int) -> list[str]:
    return [id for id in map(str, range(10 * count)) if partition_of(id) % 2 == 0][:count]


class TestSeveralReaders:
    def test_all_have_the_same_batches_in_the_same_order(self, say: Any, source: Source) -> None:
        ids = one_lane(2 * BATCH_EVENTS_MAX + 7)
        say([(id, READERS) for id in ids])
        rows = batches(source)
        assert len(rows) == 3 * len(READERS)
        assert len({row["id"] for row in rows}) == len({row["seq"] for row in rows}) == len(rows)
        for reader in READERS:
            assert told(rows, reader, 0) == ids
        first, *others = ([row for row in rows if row["destination"] == reader] for reader in READERS)
        same = ("aggregate_type", "aggregate_id", "event_type", "event_count", "payload", "created_at", "status")
        for other in others:
            assert [[row[name] for name in same] for row in other] == [[row[name] for name in same] for row in first]

    def test_a_lane_that_only_begins_like_another_keeps_its_order(self, say: Any, source: Source) -> None:
        """Were its first batch copied and its second written, the second would come first."""
        ids = one_lane(BATCH_EVENTS_MAX + 5)
        both, one = ids[:BATCH_EVENTS_MAX], ids[BATCH_EVENTS_MAX:]
        say([(id, ("notifier", "processor")) for id in both] + [(id, ("processor",)) for id in one])
        rows = batches(source)
        assert (told(rows, "notifier", 0), told(rows, "processor", 0)) == (both, ids)

    def test_a_copy_is_as_compressed_as_what_it_is_copied_from(self, say: Any, source: Source) -> None:
        say([(id, READERS) for id in one_lane(BATCH_EVENTS_MAX)])
        with psycopg.connect(source.url) as connection:
            rows = connection.execute(
                "SELECT pg_column_size(payload), length(payload::text), pg_column_compression(payload) FROM outbox_events"
            ).fetchall()
        assert len(rows) == len(READERS)
        [(stored, length, method)] = set(rows)
        assert method == "pglz"
        assert stored < length / 4

    @given(
        said=st.lists(
            st.tuples(st.sampled_from("abcdef"), st.sets(st.sampled_from(READERS), min_size=1).map(sorted).map(tuple)),
            min_size=1,
            max_size=12,
        )
    )
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_each_has_what_it_was_told_and_nothing_else(self, say: Any, source: Source, said: Any) -> None:
        with psycopg.connect(source.url, autocommit=True) as connection:
            connection.execute("DELETE FROM outbox_events")
        say(said)
        rows = batches(source)
        for reader in READERS:
            for lane in (0, 1):
                expected = [
                    id for id, readers in said if reader in readers and lane_of(partition_of(id), reader, 2) == lane
                ]
                assert told(rows, reader, lane) == expected
        assert sum(row["event_count"] for row in rows) == sum(len(readers) for _, readers in said)
        assert all(row["event_count"] == len(row["payload"]) for row in rows)


class TestRetention:
    def test_forgets_all_that_is_old_however_much(
        self, source: Source, valkey: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In bounded parts; one part a minute would be less than a busy system adds."""
        monkeypatch.setattr(runtime, "_FORGET_AT_ONCE", 2)
        for _ in range(5):
            source.say("a")
        source.query("UPDATE outbox_events SET status = 'ACKED', acked_at = brokage_now() RETURNING 1")
        source.query("UPDATE clock_offset SET value = '2 days' RETURNING 1")
        source.say("b")
        runtime.forget(source.database, settings_of(valkey, lease_seconds=1.0))
        assert source.query("SELECT status, count(*) FROM outbox_events GROUP BY status") == [("PENDING", 1)]


def test_lanes_share_a_message_and_go_each_alone_when_they_are_sent_again(say: Any, source: Source) -> None:
    say([(id, ("processor",)) for id in map(str, range(20))])
    outbox = PostgresOutbox(source.database, lease_seconds=0.0, events_max=20)
    first, again = ([(claim.lanes, claim.events) for claim in outbox.step([], lambda reader: 0)] for _ in range(2))
    in_lane_0 = len(told(batches(source), "processor", 0))
    assert [(sorted(lanes), events) for lanes, events in first] == [([0, 1], 20)]
    assert sorted(again) == [([0], in_lane_0), ([1], 20 - in_lane_0)]


def test_lanes_that_are_too_large_for_one_message_do_not_share_it(say: Any, source: Source) -> None:
    say([(id, ("processor",)) for id in map(str, range(20))])
    outbox = PostgresOutbox(source.database, lease_seconds=60.0, events_max=19)
    assert sorted(claim.lanes for claim in outbox.step([], lambda reader: 0)) == [[0], [1]]
