"""What a worker process has in hand when it ends comes again at once; what a living one has does not."""

import signal
import subprocess
import time
from typing import Any

import pytest
import redis
from small_service import (
    Source,
    process_state,
    running_relays,
    running_workers,
    settings_of,
    wait_until,
    worker_process,
)

from infra.servers.valkey import ValkeyServer
from shared.messaging.broker import Broker
from shared.messaging.delivery import Acknowledgement, Delivery, Outcome
from shared.messaging.outbox import Claim, PostgresOutbox
from shared.testing.seals import SEALS, refuse_to_refuse

LEASE_SECONDS = 60.0
"""Nobody waits for that here."""


def full_queue(destination: str) -> int:
    return 1


def lost(claim: Claim, *, deliveries: int) -> list[Acknowledgement]:
    return [Acknowledgement(batch.id, Outcome.LOST, deliveries) for batch in claim.batches]


def deferred(claim: Claim) -> list[Acknowledgement]:
    return [Acknowledgement(batch.id, Outcome.DEFERRED, batch.deliveries) for batch in claim.batches]


def pass_by(source: Source, seconds: float) -> None:
    source.query("UPDATE clock_offset SET value = value + make_interval(secs => %s) RETURNING 1", seconds)


class TestTheSource:
    def test_sends_what_was_lost_again_at_once_and_alone(self, source: Source) -> None:
        store = PostgresOutbox(source.database, lease_seconds=LEASE_SECONDS, events_max=500)
        source.say("a")
        source.say("a")
        [first] = store.step([], full_queue)
        source.say("a")
        assert store.step([], full_queue) == []
        [again] = store.step(lost(first, deliveries=1), full_queue)
        assert [batch.id for batch in again.batches] == [batch.id for batch in first.batches]
        assert {batch.deliveries for batch in again.batches} == {2}

    def test_is_told_of_one_delivery_and_not_of_a_later_one(self, source: Source) -> None:
        store = PostgresOutbox(source.database, lease_seconds=LEASE_SECONDS, events_max=500)
        source.say("a")
        [first] = store.step([], full_queue)
        assert store.step(lost(first, deliveries=1), full_queue)
        assert store.step(lost(first, deliveries=1), full_queue) == [], "the second delivery may be in good hands"

    def test_sends_what_was_lost_though_the_broker_refused_it_then(self, source: Source) -> None:
        store = PostgresOutbox(source.database, lease_seconds=LEASE_SECONDS, events_max=500)
        source.say("a")
        [first] = store.step([], full_queue)
        store.release(store.step(lost(first, deliveries=1), full_queue))
        [again] = store.step([], full_queue)
        assert {batch.deliveries for batch in again.batches} == {2}

    def test_sends_what_was_deferred_again_in_a_moment_and_does_not_count_it(self, source: Source) -> None:
        """However often: an outage that lasts is not what an event did."""
        store = PostgresOutbox(source.database, lease_seconds=LEASE_SECONDS, events_max=500)
        source.say("a")
        [claim] = store.step([], full_queue)
        for _ in range(5):
            assert store.step(deferred(claim), full_queue) == []
            pass_by(source, 2.5)
            [claim] = store.step([], full_queue)
            assert {batch.deliveries for batch in claim.batches} == {1}

    def test_looks_again_soon_when_it_takes_what_is_unread_for_its_own(self, source: Source) -> None:
        store = PostgresOutbox(source.database, lease_seconds=LEASE_SECONDS, events_max=500)
        source.say("a")
        assert store.step([], full_queue)
        pass_by(source, LEASE_SECONDS + 1)
        assert store.step([], full_queue) == []
        pass_by(source, 1.5)
        [again] = store.step([], lambda destination: 0)
        assert {batch.deliveries for batch in again.batches} == {2}

    def test_does_not_send_what_was_acknowledged(self, source: Source) -> None:
        store = PostgresOutbox(source.database, lease_seconds=LEASE_SECONDS, events_max=500)
        source.say("a")
        [claim] = store.step([], full_queue)
        [batch] = claim.batches
        assert store.step([*lost(claim, deliveries=1), Acknowledgement(batch.id)], full_queue) == []
        assert store.step(lost(claim, deliveries=1), full_queue) == []
        assert source.drained()


class TestAWorker:
    @pytest.mark.parametrize("point", ["inbox.received", "inbox.claimed", "inbox.before_acknowledge"])
    def test_that_starts_after_one_that_died_gets_what_that_had(self, source: Source, valkey: str, point: str) -> None:
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        with running_relays(1, source.url, settings):
            with worker_process(source, valkey, lease_seconds=LEASE_SECONDS, stop_at=point) as worker:
                self.say_and_wait_until_stopped(source, worker)
            with running_workers(source.url, settings):
                source.wait_drained(seconds=20.0)
        assert source.query("SELECT max(retry_count) FROM outbox_events WHERE destination = 'tests'") == [(2,)]
        assert left_behind(valkey) == [], "no copy of it comes later"
        source.assert_all_once()

    @pytest.mark.parametrize("point", ["lost.found", "lost.taken", "lost.told"])
    def test_that_dies_while_it_tells_leaves_the_rest_to_the_next_or_to_the_lease(
        self, source: Source, valkey: str, point: str
    ) -> None:
        settings = settings_of(valkey, lease_seconds=3.0)
        with running_relays(1, source.url, settings):
            with worker_process(source, valkey, lease_seconds=3.0, stop_at="inbox.received") as worker:
                self.say_and_wait_until_stopped(source, worker)
            with worker_process(source, valkey, lease_seconds=3.0, stop_at=point) as teller:
                wait_until(lambda: process_state(teller.pid) == "T", 20)
            with running_workers(source.url, settings):
                source.wait_drained(seconds=20.0)
        assert left_behind(valkey) == []
        source.assert_all_once()

    def test_that_starts_beside_a_stopped_one_leaves_it_what_it_has(self, source: Source, valkey: str) -> None:
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        with (
            running_relays(1, source.url, settings),
            worker_process(source, valkey, lease_seconds=LEASE_SECONDS, stop_at="inbox.received") as worker,
        ):
            self.say_and_wait_until_stopped(source, worker)
            with running_workers(source.url, settings):
                time.sleep(1.0)
                assert source.query("SELECT retry_count, acked_at FROM outbox_events") == [(1, None)]
                worker.send_signal(signal.SIGCONT)
                source.wait_drained(seconds=20.0)
        source.assert_all_once()

    @pytest.mark.parametrize("point", ["inbox.received", "inbox.claimed", "inbox.committed"])
    def test_taken_for_dead_wakes_up_and_changes_nothing(self, source: Source, valkey: str, point: str) -> None:
        """It is stopped, and its connections to the broker are cut: to the next one it has ended."""
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        with (
            running_relays(1, source.url, settings),
            worker_process(source, valkey, lease_seconds=LEASE_SECONDS, stop_at=point) as worker,
        ):
            self.say_and_wait_until_stopped(source, worker)
            with redis.Redis.from_url(valkey) as client:
                client.client_kill_filter(_type="normal", skipme=True)
            with running_workers(source.url, settings):
                source.wait_drained(seconds=20.0)
                source.say("b", "a")
                worker.send_signal(signal.SIGCONT)
                source.say("a", "b")
                source.wait_drained()
        source.assert_all_once()

    def test_that_comes_while_another_asks_who_died_keeps_what_it_has(
        self, source: Source, valkey: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = (Broker(valkey, SEALS, refuse_to_refuse) for _ in range(2))
        source.say("a")
        [claim] = PostgresOutbox(source.database, lease_seconds=LEASE_SECONDS, events_max=500).step([], full_queue)
        first.publish("tests", Delivery("tests", claim.batches))
        client_list = first.dramatiq.client.client_list

        def while_the_second_comes() -> Any:
            living = client_list()
            assert len(second.dramatiq.do_fetch("tests", 16)) == 1
            return living

        monkeypatch.setattr(first.dramatiq.client, "client_list", while_the_second_comes)
        assert first.tell_what_was_lost("tests") == 0
        first.close()
        second.close()

    def test_that_finds_no_broker_starts_all_the_same(
        self, source: Source, valkey: str, valkey_server: ValkeyServer
    ) -> None:
        settings = settings_of(valkey, lease_seconds=0.5)
        valkey_server.kill()
        with running_relays(1, source.url, settings), running_workers(source.url, settings):
            source.say("a", "b")
            valkey_server.restart()
            source.wait_drained()
        source.assert_all_once()

    def test_that_ended_with_garbage_in_hand_is_not_stumbled_over(self, source: Source, valkey: str) -> None:
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        gone = Broker(valkey, SEALS, refuse_to_refuse)
        for garbage in ("not json", "[]", '{"kwargs": 7}'):
            gone.dramatiq.do_enqueue("tests", f"garbage-{garbage!r}", garbage)
        assert len(gone.dramatiq.do_fetch("tests", 16)) == 3
        gone.close()
        with running_relays(1, source.url, settings), running_workers(source.url, settings):
            source.say("a", "b")
            source.wait_drained()
        source.assert_all_once()
        assert left_behind(valkey) == []
        assert sum(count for *_, count in source.refusals()) == 3

    def say_and_wait_until_stopped(self, source: Source, worker: "subprocess.Popen[str]") -> None:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        source.say("a", "b", "a")
        wait_until(lambda: process_state(worker.pid) == "T", 20)


def left_behind(valkey: str) -> list[bytes]:
    with redis.Redis.from_url(valkey) as client:
        left = [key for key in client.scan_iter("dramatiq:*") if b"__acks__" in key or key.endswith(b".msgs")]
    return [key for key in left if b"auditor" not in key]  # there is none here who would take what he is told
