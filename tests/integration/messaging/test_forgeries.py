"""Somebody who can write to the broker, and has no key: nothing he says has an effect, and all of it is put on record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis
from small_service import SOURCE, Source, running_relays, running_workers, settings_of, wait_until

from infra.faults.wire import wire_message
from shared.contracts.message import encode_messages
from shared.contracts.orders import ConfirmOrder
from shared.contracts.system import MessageRefused
from shared.ids import new_id
from shared.messaging.broker import Broker
from shared.messaging.delivery import Acknowledgement, Batch, Delivery, Outcome, decode_delivery, encode_delivery
from shared.messaging.refusals import message_of
from shared.messaging.seal import Seals, acknowledgement_channel, delivery_channel
from shared.testing.messages import create_message
from shared.testing.seals import SEALS, STRANGER, refuse_to_refuse

LEASE_SECONDS = 60.0
"""Whatever is sent again here was lost by nobody's forgery."""


def forged_delivery(*, source: str = SOURCE) -> bytes:
    """Of an event that nobody has said."""
    event = create_message(ConfirmOrder(), aggregate_id="forged")
    batch = Batch(new_id(), 1, msgspec.Raw(encode_messages([event])))
    return encode_delivery(Delivery(source, [batch]))


def put(valkey: str, queue: str, id: str, data: bytes) -> None:
    with redis.Redis.from_url(valkey) as client:
        client.hset(f"dramatiq:{queue}.msgs", id, data)
        client.rpush(f"dramatiq:{queue}", id)


def unsealed(delivery: bytes) -> tuple[str, bytes]:
    return wire_message("tests", delivery, None)


def sealed_by_a_stranger(delivery: bytes) -> tuple[str, bytes]:
    return wire_message("tests", delivery, STRANGER)


def sealed_for_another_reader(delivery: bytes) -> tuple[str, bytes]:
    _, data = wire_message("echo", delivery, SEALS)
    kwargs = msgspec.json.decode(data)["kwargs"]
    return wire_message("tests", delivery, SEALS, kwargs=kwargs)


def sealed_as_acknowledgement(delivery: bytes) -> tuple[str, bytes]:
    seal = SEALS.seal(acknowledgement_channel("tests"), delivery)
    return wire_message("tests", delivery, None, kwargs={"delivery": delivery, "seal": seal})


def changed_after_it_was_sealed(delivery: bytes) -> tuple[str, bytes]:
    seal = SEALS.seal(
        delivery_channel("tests"), encode_delivery(msgspec.structs.replace(decode_delivery(delivery), source="others"))
    )
    return wire_message("tests", delivery, None, kwargs={"delivery": delivery, "seal": seal})


# A true seal in a message of another shape: nothing but the delivery is sealed, so nothing else may decide.


def for_another_actor(delivery: bytes) -> tuple[str, bytes]:
    return wire_message("tests", delivery, SEALS, actor_name="echo.receive")


def of_another_queue(delivery: bytes) -> tuple[str, bytes]:
    """dramatiq looks there for who had it, and a thread that finds nobody ends."""
    return wire_message("tests", delivery, SEALS, queue_name="nobody")


def for_later(delivery: bytes) -> tuple[str, bytes]:
    """It would keep its place in the worker's hand until then."""
    id, data = wire_message("tests", delivery, SEALS)
    options = {"redis_message_id": id, "eta": 4_000_000_000_000}
    return id, msgspec.json.encode({**msgspec.json.decode(data), "options": options})


def with_more_arguments(delivery: bytes) -> tuple[str, bytes]:
    return wire_message("tests", delivery, SEALS, args=["more"])


def that_is_no_text(delivery: bytes) -> tuple[str, bytes]:
    id, data = wire_message("tests", delivery, SEALS)
    return id, data.replace(b'"tests.receive"', b'"\xff"')


TOO_DEEP = b"[" * 5_000 + b"]" * 5_000
FORGERIES = (
    unsealed,
    sealed_by_a_stranger,
    sealed_for_another_reader,
    sealed_as_acknowledgement,
    changed_after_it_was_sealed,
    for_another_actor,
    of_another_queue,
    for_later,
    with_more_arguments,
    that_is_no_text,
)


@contextmanager
def running(source: Source, valkey: str) -> Iterator[list[tuple[str, str]]]:
    """What the relay has refused; what the workers have is in the outbox."""
    settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
    refused: list[tuple[str, str]] = []
    with (
        running_relays(1, source.url, settings, lambda *what: refused.append(what)),
        running_workers(source.url, settings),
    ):
        yield refused


class TestADelivery:
    @pytest.mark.parametrize("forgery", FORGERIES)
    def test_that_is_forged_has_no_effect_and_is_on_record(
        self, source: Source, valkey: str, forgery: Callable[[bytes], tuple[str, bytes]]
    ) -> None:
        with running(source, valkey) as refused_by_relay:
            # More than a worker has threads, or places in its hand.
            for _ in range(40):
                put(valkey, "tests", *forgery(forged_delivery()))
            source.say("a", "b", "a")
            source.wait_drained()
            wait_until(source.refusals, 10)
        source.assert_all_once()
        assert source.effects("forged") == []
        assert source.query("SELECT 1 FROM dead_letters") == []
        assert {refusal[:2] for refusal in source.refusals()} == {("tests", "delivery")}
        assert sum(count for *_, count in source.refusals()) == 40
        assert len(source.refusals()) <= 2, "the first, and at the end of the process those since"
        assert refused_by_relay == [], "none was acknowledged"
        assert left_in_the_broker(valkey) == []

    def test_that_is_true_has_its_effect_once_however_often_somebody_puts_it_there(
        self, source: Source, valkey: str
    ) -> None:
        with running(source, valkey):
            # As the relay sealed it: somebody who reads the broker can keep and repeat it.
            delivery = forged_delivery()
            for _ in range(5):
                put(valkey, "tests", *wire_message("tests", delivery, SEALS))
            wait_until(lambda: source.effects("forged"), 10)
            source.say("a")
            source.wait_drained()
        assert source.effects("forged") == [1]
        assert source.refusals() == []

    def test_that_is_nested_too_deep_is_refused_and_those_after_it_arrive(self, source: Source, valkey: str) -> None:
        with running(source, valkey):
            put(valkey, "tests", *wire_message("tests", forged_delivery(), SEALS, args=msgspec.Raw(TOO_DEEP)))
            source.say("a")
            source.wait_drained()
            wait_until(source.refusals, 10)
        source.assert_all_once()
        assert [(queue, kind) for queue, kind, _ in source.refusals()] == [("tests", "delivery")]


class TestAnAcknowledgement:
    @pytest.mark.parametrize("said", [b"[]", TOO_DEEP], ids=["no text", "too deep"])
    def test_that_cannot_be_read_is_refused_and_those_after_it_arrive(
        self, source: Source, valkey: str, said: bytes
    ) -> None:
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        refused: list[tuple[str, str]] = []
        with (
            running_relays(1, source.url, settings, lambda *what: refused.append(what)),
            running_workers(source.url, settings),
        ):
            with redis.Redis.from_url(valkey) as client:
                client.rpush(f"brokage:{SOURCE}.acks", b'{"said":' + said + b',"seal":"\xff"}')
            wait_until(lambda: refused == [(SOURCE, "acknowledgement")], 10)
            source.say("a")
            source.wait_drained()
        source.assert_all_once()

    @pytest.mark.parametrize("outcome", list(Outcome))
    @pytest.mark.parametrize("forger", [None, STRANGER, SEALS], ids=["no seal", "a stranger's", "another source's"])
    def test_that_is_forged_ends_nothing(
        self, source: Source, valkey: str, forger: Seals | None, outcome: Outcome
    ) -> None:
        settings = settings_of(valkey, lease_seconds=LEASE_SECONDS)
        refused: list[tuple[str, str]] = []
        with running_relays(1, source.url, settings, lambda *what: refused.append(what)):
            source.say("a")
            wait_until(lambda: sent(source) == [("SENT", 1)], 10)
            [(id,)] = source.query("SELECT id::text FROM outbox_events")
            body = msgspec.json.encode([Acknowledgement(id, outcome, 1)])
            push_acknowledgement(valkey, body, forger and forger.seal(acknowledgement_channel("echo"), body))
            push_acknowledgement(valkey, body, 7)
            wait_until(lambda: len(refused) == 2, 10)
            # A step of the relay after it, which sends what is in the other lane.
            source.say("b", "c", "d", "e")
            wait_until(lambda: len(sent(source)) == 2, 10)
            assert sent(source)[0] == ("SENT", 1)
            assert set(refused) == {(SOURCE, "acknowledgement")}
            with running_workers(source.url, settings):
                source.wait_drained()
        source.assert_all_once()


class TestWhatADeadWorkerHadInHand:
    def test_is_not_believed_to_be_lost_if_it_is_forged(self, source: Source, valkey: str) -> None:
        """Else who starts would seal for the forger what he says."""
        dead = Broker(valkey, SEALS, refuse_to_refuse)
        put(valkey, "tests", *unsealed(forged_delivery()))
        assert len(dead.dramatiq.do_fetch("tests", 16)) == 1
        dead.close()
        refused: list[tuple[str, str]] = []
        starting = Broker(valkey, SEALS, lambda *what: refused.append(what))
        assert starting.tell_what_was_lost("tests") == 0
        assert refused == [("tests", "delivery")]
        assert starting.take_acknowledgements(SOURCE, wait_seconds=0.1) == []
        starting.close()


class TestAReport:
    def test_arrives_if_it_is_true(self, valkey: str) -> None:
        refused: list[tuple[str, str]] = []
        broker = Broker(valkey, SEALS, lambda *what: refused.append(what))
        told = message_of(MessageRefused(queue="notifier", kind="delivery", count=2))
        broker.report(told)
        [(genuine,)] = [broker._client.lrange("brokage:refusals", 0, -1)]
        broker._client.rpush("brokage:refusals", genuine.replace(b'"count":2', b'"count":3'), b"{}")
        assert broker.take_reports() == [told]
        assert refused == [("auditor", "report")] * 2
        assert broker.take_reports() == []
        broker.close()


def sent(source: Source) -> list[tuple[Any, ...]]:
    return source.query("SELECT status, retry_count FROM outbox_events WHERE status <> 'PENDING' ORDER BY seq")


def push_acknowledgement(valkey: str, body: bytes, seal: object) -> None:
    with redis.Redis.from_url(valkey) as client:
        sealed = {"said": msgspec.Raw(body)} | ({} if seal is None else {"seal": seal})
        client.rpush(f"brokage:{SOURCE}.acks", msgspec.json.encode(sealed))


def left_in_the_broker(valkey: str) -> list[bytes]:
    with redis.Redis.from_url(valkey) as client:
        return [
            key
            for key in client.scan_iter("dramatiq:*tests*")
            if b"__acks__" in key or b".msgs" in key or b".XQ" in key
        ]
