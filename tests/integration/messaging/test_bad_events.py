"""Events that fail, kill or are too old: parked, with their followers held, and nobody else waits for them."""

import itertools
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from small_service import (
    Machine,
    Source,
    process_state,
    running_relays,
    running_workers,
    settings_of,
    wait_until,
    worker_process,
)

from shared.contracts.message import partition_of
from shared.messaging.outbox import PostgresOutbox

LEASE_SECONDS = 0.3
KILLER_LEASE_SECONDS = 6.0
"""Longer than a worker takes to start, as in production."""
KILLED = 9


@contextmanager
def supervised_worker(source: Source, valkey: str, *, lease_seconds: float) -> Iterator[list[datetime]]:
    """A worker process that is started anew whenever it dies; yields when it was killed by an event so far."""
    stop = threading.Event()
    deaths: list[datetime] = []

    def supervise() -> None:
        while not stop.is_set():
            with worker_process(source, valkey, lease_seconds=lease_seconds) as process:
                while process.poll() is None and not stop.wait(0.02):
                    pass
                if process.returncode == KILLED:
                    deaths.append(datetime.now(UTC))

    thread = threading.Thread(target=supervise)
    thread.start()
    try:
        yield deaths
    finally:
        stop.set()
        thread.join(20)


class TestPoison:
    def test_is_parked_after_three_attempts_and_only_its_followers_wait(self, source: Source, valkey: str) -> None:
        settings = settings_of(valkey, lease_seconds=10.0)
        with running_relays(1, source.url, settings), running_workers(source.url, settings):
            source.say(*("a", "b", "c") * 20, "poison", "poison", "poison", *("a", "d") * 20)
            source.say("poison", "a", "b", "c", "d")
            source.wait_drained(seconds=5.0)
        source.assert_all_once(but=["poison"])
        assert source.effects("poison") == source.effects("poison", "echo") == [1]
        letters = source.letters("poison")
        assert [(status, version) for status, _, version in letters] == [("PARKED", 2), ("HELD", 3), ("HELD", 4)]
        attempts = source.query("SELECT max(attempts) FROM processed_events WHERE consumer = 'tests'")
        assert attempts == [(4,)], "three were tried, the fourth count parked it"
        # Destination `tests` alone: what echo was told is all good.
        statuses = source.query("SELECT DISTINCT status FROM outbox_events WHERE destination = 'echo'")
        assert statuses == [("ACKED",)]

    def test_its_batch_is_acknowledged_once_it_was_let_go(self, source: Source, valkey: str) -> None:
        settings = settings_of(valkey, lease_seconds=10.0)
        store = PostgresOutbox(source.database, lease_seconds=10.0, events_max=500)
        with running_relays(1, source.url, settings), running_workers(source.url, settings):
            source.say("a", "poison", "poison")
            source.say("poison", "b")
            source.wait_drained(seconds=5.0)
            parked = source.query("SELECT id FROM outbox_events WHERE parked ORDER BY id")
            assert len(parked) == 2
            assert store.ask_again(young_seconds=60.0) == 2
            source.wait_drained(seconds=5.0)
            assert source.query("SELECT id FROM outbox_events WHERE parked ORDER BY id") == parked, (
                "somebody still waits in them"
            )
            source.query("UPDATE dead_letters SET status = 'REQUEUED', resolved_at = brokage_now() RETURNING 1")
            assert store.ask_again(young_seconds=60.0) == 2
            source.wait_drained(seconds=5.0)
        statuses = source.query("SELECT DISTINCT status FROM outbox_events WHERE destination = 'tests'")
        assert statuses == [("ACKED",)]
        assert source.effects("poison") == [1], "nothing of it was done again"

    def test_its_batch_goes_at_once_when_it_is_asked_about(self, source: Source) -> None:
        """Whatever else is unread: it is in no queue itself, and to wait for it would hold its lane up for a lease."""
        source.say("a")
        source.query(
            "UPDATE outbox_events SET status = 'PARKED', retry_count = 1, published_at = brokage_now(),"
            " acked_at = brokage_now() RETURNING 1"
        )
        store = PostgresOutbox(source.database, lease_seconds=10.0, events_max=500)
        asked = store.ask_again(young_seconds=60.0)
        claims = store.step([], queue_depth=lambda destination: 1)
        assert asked == len(claims) > 0
        assert {batch.deliveries for claim in claims for batch in claim.batches} == {2}

    def test_an_old_batch_is_not_asked_about(self, source: Source) -> None:
        """What its consumer did with it is forgotten by then."""
        source.say("a")
        source.query("UPDATE outbox_events SET status = 'PARKED', acked_at = brokage_now() RETURNING 1")
        source.query("UPDATE clock_offset SET value = '31 days' RETURNING 1")
        store = PostgresOutbox(source.database, lease_seconds=10.0, events_max=500)
        assert store.ask_again(young_seconds=30 * 24 * 3600.0) == 0

    def test_held_events_stay_in_order_while_more_of_them_come(self, source: Source, valkey: str) -> None:
        settings = settings_of(valkey, lease_seconds=10.0)
        with running_relays(1, source.url, settings), running_workers(source.url, settings):
            for _ in range(10):
                source.say("poison", "a", "poison")
            source.wait_drained(seconds=5.0)
        source.assert_all_once(but=["poison"])
        assert [version for _, _, version in source.letters("poison")] == list(range(2, 21))


class TestAKiller:
    def test_is_parked_and_who_works_beside_it_is_not(self, source: Source, valkey: str) -> None:
        """The slow ones are always in work when the process dies, yet it is not for their sake that it does."""
        settings = settings_of(valkey, lease_seconds=KILLER_LEASE_SECONDS)
        with (
            running_relays(1, source.url, settings),
            supervised_worker(source, valkey, lease_seconds=KILLER_LEASE_SECONDS) as deaths,
        ):
            source.say("killer-1")
            source.wait_drained()
            slow = in_the_other_lane("slow")[:3]
            source.say("killer-1", *slow, "a")
            source.say("killer-1", "a")
            source.wait_drained(seconds=60.0)
        source.assert_all_once(but=["killer-1"])
        assert source.effects("killer-1") == [1]
        assert [(s, version) for s, _, version in source.letters("killer-1")] == [("PARKED", 2), ("HELD", 3)]
        assert len(deaths) == 4, "once in its batch, three times alone"

    def test_lets_the_other_lane_go_on_between_its_deaths(self, source: Source, valkey: str) -> None:
        settings = settings_of(valkey, lease_seconds=KILLER_LEASE_SECONDS)
        other = in_the_other_lane("other")[0]
        with (
            running_relays(1, source.url, settings),
            supervised_worker(source, valkey, lease_seconds=KILLER_LEASE_SECONDS) as deaths,
        ):
            source.say("killer-1", "killer-1")
            while not source.letters("killer-1"):
                source.say(other)
                time.sleep(0.1)
            source.wait_drained()
        source.assert_all_once(but=["killer-1"])
        [(parked_at,)] = source.query("SELECT created_at FROM dead_letters WHERE status = 'PARKED'")
        done = source.query("SELECT applied_at FROM effects WHERE aggregate_id = %s AND consumer = 'tests'", other)
        for before, after in itertools.pairwise([*deaths[1:], parked_at]):
            assert any(before < at < after for (at,) in done), (deaths, parked_at, done)

    def test_of_a_large_batch_is_parked_after_one_death_more(self, source: Source, valkey: str) -> None:
        settings = settings_of(valkey, lease_seconds=KILLER_LEASE_SECONDS)
        with (
            running_relays(1, source.url, settings),
            supervised_worker(source, valkey, lease_seconds=KILLER_LEASE_SECONDS) as deaths,
        ):
            source.say(*["a"] * 30, "killer-1", "killer-1", *["a"] * 30)
            source.wait_drained(seconds=60.0)
        source.assert_all_once(but=["killer-1"])
        assert len(deaths) == 5, "twice in its batch, three times alone"


def in_the_other_lane(name: str) -> list[str]:
    """Aggregates so named that do not travel with `killer-1`."""
    names = [f"{name}-{number}" for number in range(20)]
    return [each for each in names if partition_of(each) % 2 != partition_of("killer-1") % 2]


class TestAStaleEvent:
    def test_is_parked_and_never_applied(self, source: Source, valkey: str) -> None:
        source.say("stale", "a")
        source.query("UPDATE clock_offset SET value = '31 days' RETURNING 1")
        machine = Machine(source.url, valkey, lease_seconds=LEASE_SECONDS)
        source.database.clock._expires = 0.0
        source.say("b", "stale")
        wait_until(lambda: machine.turn() or source.drained(), 10)
        machine.close()
        assert source.letters("a") == [("PARKED", "STALE", 1)]
        assert [(status, version) for status, _, version in source.letters("stale")] == [("PARKED", 1), ("HELD", 2)]
        source.assert_all_once(but=["a", "stale"])


class TestAStoppedWorker:
    def test_wakes_up_too_late_and_changes_nothing(self, source: Source, valkey: str) -> None:
        """Stopped in its transaction, after its commit, and before it began: another one has taken over each time."""
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        for number, point in enumerate(("inbox.received", "inbox.claimed", "inbox.committed")):
            with (
                running_relays(1, source.url, settings),
                worker_process(source, valkey, lease_seconds=LEASE_SECONDS, stop_at=point) as worker,
            ):
                source.say("a", "b", "a")
                wait_until(lambda worker=worker: process_state(worker.pid) == "T", 20)
                with running_workers(source.url, settings):
                    source.wait_drained(seconds=20.0)
                    worker.send_signal(signal.SIGCONT)
                    wait_until(lambda worker=worker: process_state(worker.pid) != "T", 5)
                    source.say("b", "a")
                    source.wait_drained()
            assert source.versions == {"a": 3 * (number + 1), "b": 2 * (number + 1)}
            source.assert_all_once()
