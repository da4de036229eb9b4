"""The broker forgets, refuses, dies and comes back while events flow; relays and workers run as in production."""

import random
import time

import pytest
from small_service import Machine, Source, flush, running_relays, running_workers, settings_of, wait_until

from infra.servers.valkey import ValkeyServer

LEASE_SECONDS = 0.5
AGGREGATES = [f"aggregate-{number}" for number in range(6)]


def say_something(source: Source, chance: random.Random) -> None:
    source.say(*chance.choices(AGGREGATES, k=chance.randint(1, 5)))


class TestTraffic:
    @pytest.mark.parametrize("relays", [1, 2])
    def test_a_broker_flushed_at_any_moment_loses_and_doubles_nothing(
        self, source: Source, valkey: str, relays: int
    ) -> None:
        chance = random.Random(relays)
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        with running_relays(relays, source.url, settings), running_workers(source.url, settings):
            for _ in range(60):
                say_something(source, chance)
                if chance.random() < 0.2:
                    time.sleep(chance.random() * 0.05)
                    flush(valkey)
            source.wait_drained()
        source.assert_all_once()

    def test_two_relays_do_the_work_of_one(self, source: Source, valkey: str) -> None:
        settings = settings_of(valkey, lease_seconds=10.0)
        with running_relays(2, source.url, settings), running_workers(source.url, settings):
            for _ in range(30):
                source.say(*AGGREGATES)
            source.wait_drained()
        source.assert_all_once()
        assert source.query("SELECT max(retry_count) FROM outbox_events") == [(1,)], "something was sent twice"

    def test_a_new_event_goes_out_at_once(self, source: Source, valkey: str) -> None:
        """NOTIFY and bells carry it; the sweep, every three seconds here, has no part in it."""
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS).model_copy(update={"relay_sweep_seconds": 3.0})
        with running_relays(1, source.url, settings), running_workers(source.url, settings):
            source.say("first")
            source.wait_drained()
            for _ in range(5):
                time.sleep(0.1)
                source.say("later")
                source.wait_drained(seconds=2.0)
        source.assert_all_once()


class TestAnOutage:
    def test_a_killed_broker_is_waited_for(self, source: Source, valkey: str, valkey_server: ValkeyServer) -> None:
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        with running_relays(2, source.url, settings), running_workers(source.url, settings):
            source.say(*AGGREGATES)
            source.wait_drained()
            valkey_server.kill()
            for _ in range(10):
                source.say(*AGGREGATES)
            time.sleep(1.0)
            assert not source.drained()
            valkey_server.restart()
            source.wait_drained()
        source.assert_all_once()

    def test_a_refused_message_was_not_delivered(
        self, source: Source, valkey: str, valkey_server: ValkeyServer
    ) -> None:
        """Else an outage would use up the attempts of whatever waits, and have it taken event by event afterwards."""
        machine = Machine(source.url, valkey, lease_seconds=10.0)
        source.say("a")
        valkey_server.kill()
        for _ in range(5):
            machine.relay.step()
        assert source.query("SELECT retry_count, lease_until FROM outbox_events") == [(0, None)]
        valkey_server.restart()
        for _ in range(20):
            machine.turn()
        machine.close()
        assert source.drained()
        assert source.query("SELECT max(retry_count) FROM outbox_events") == [(1,)]
        source.assert_all_once()

    def test_what_nobody_reads_is_sent_again_more_and_more_rarely(self, source: Source, valkey: str) -> None:
        machine = Machine(source.url, valkey, lease_seconds=0.01)
        source.say("a")
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            machine.relay.step()
        copies = machine.broker.unread("tests")
        for _ in range(30):
            machine.turn()
            time.sleep(0.01)
        machine.close()
        assert 2 <= copies <= 8, f"{copies} copies of one message"
        assert source.drained()
        source.assert_all_once()


class TestGarbage:
    def test_what_is_no_delivery_is_refused(self, source: Source, valkey: str) -> None:
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        refused: list[tuple[str, str]] = []
        with (
            running_relays(1, source.url, settings, lambda *what: refused.append(what)),
            running_workers(source.url, settings),
        ):
            machine = Machine(source.url, valkey, lease_seconds=LEASE_SECONDS)
            for garbage in ("not json", "[]", '{"kwargs": 7}', "\ud800".encode("utf-8", "surrogatepass")):
                machine.broker.dramatiq.do_enqueue("tests", f"garbage-{garbage!r}", garbage)
            machine.broker._client.rpush("brokage:source.acks", b"not json")
            source.say("a", "b")
            source.wait_drained()
            wait_until(lambda: machine.broker.unread("tests") == 0, 5)
            machine.close()
        source.assert_all_once()
        assert refused == [("source", "acknowledgement")]
        assert sum(count for *_, count in source.refusals()) == 4
