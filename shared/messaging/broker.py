"""dramatiq on Valkey, as a doorbell: one actor and one queue per consumer, no retries, no delays, nothing kept.

Postgres holds the truth (messaging.md), so dramatiq's own retries, delay queues and dead letters are not used. A consumer with
nothing to do blocks on a small list instead of polling, so a message is picked up at once and an idle worker costs nothing.
Whatever is taken from Valkey and acted upon is sealed; what is not is refused before dramatiq sees it.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeAlias

import dramatiq
import msgspec
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.encoder import Encoder
from dramatiq.errors import ConnectionClosed, DecodeError

from shared.contracts.message import Message, decode_messages, encode_message, join_messages
from shared.contracts.system import MessageRefused
from shared.faults import fault
from shared.messaging.delivery import (
    Acknowledgement,
    Delivery,
    Outcome,
    decode_acknowledgements,
    decode_delivery,
    encode_delivery,
)
from shared.messaging.seal import REPORT_CHANNEL, Seals, acknowledgement_channel, delivery_channel

# A worker that stopped answering loses its messages after this; the relay's lease is the real bound.
_HEARTBEAT_TIMEOUT_MS = 15_000
_MAINTENANCE_CHANCE = 100_000
_BELL_SECONDS = 1.0
_BELL_MAX = 64
_ACKNOWLEDGEMENTS_MAX = 100_000
_ACKNOWLEDGEMENTS_AT_ONCE = 1_000
_REPORTS = "brokage:refusals"
_REPORTS_AT_ONCE = 100

DELIVERY, ACKNOWLEDGEMENT, REPORT = "delivery", "acknowledgement", "report"


class _SealedDelivery(msgspec.Struct, forbid_unknown_fields=True):
    """The delivery as its seal covers it; in JSON it stands as base64."""

    delivery: bytes
    seal: str


class _Options(msgspec.Struct, forbid_unknown_fields=True):
    """No others: `eta` would keep a place of the queue occupied for as long as it says."""

    redis_message_id: str


class _WireMessage(msgspec.Struct, forbid_unknown_fields=True):
    """dramatiq's message, as our broker writes it and no other way."""

    queue_name: str
    actor_name: str
    args: tuple[()]
    kwargs: _SealedDelivery
    options: _Options
    message_id: str
    message_timestamp: int


class _Id(msgspec.Struct):
    redis_message_id: str


class _Placed(msgspec.Struct):
    """All that is read of what was refused: under which id it says that it lies there."""

    options: _Id


class _Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Acknowledgements, or a report, in a list."""

    said: msgspec.Raw
    seal: str


_wire_decoder = msgspec.json.Decoder(_WireMessage)
_placed_decoder = msgspec.json.Decoder(_Placed)
_sealed_decoder = msgspec.json.Decoder(_Sealed)
_encoder = msgspec.json.Encoder()

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises of bytes that anybody may have written; text that is no UTF-8 and deep nesting have errors of their own."""

Refused: TypeAlias = Callable[[str, str], None]
"""Told whose queue it was (a reader's, or a source's) and what kind of thing was refused."""


class _RawEncoder(Encoder):
    """Writes dramatiq's messages. They are read by their seal, in `DoorbellBroker.open`."""

    def encode(self, data: dict[str, Any]) -> bytes:
        return _encoder.encode(data)

    def decode(self, data: bytes) -> dict[str, Any]:
        raise DecodeError("read without its seal", data, NotImplementedError())


class _BellConsumer(_RedisConsumer):
    """Waits on the queue's bell when there is nothing to fetch."""

    _emptied = False
    """The last fetch took all there was. What came since has rung, so the bell is asked before the queue."""

    def __next__(self) -> Any:
        try:
            while True:
                room = self.prefetch - self.outstanding_message_count
                if not self.message_cache and room > 0 and not self._emptied:
                    self.message_cache = self.broker.do_fetch(self.queue_name, room)
                    self._emptied = len(self.message_cache) < room
                if not self.message_cache:
                    self.broker.client.blpop([_bell(self.broker.namespace, self.queue_name)], timeout=_BELL_SECONDS)
                    self._emptied = False
                    return None
                data = self.message_cache.pop(0)
                if data is None:
                    continue
                message = self.broker.open(self.queue_name, data)
                if message is None:
                    self.broker.forget(self.queue_name, data)
                    continue
                self.queued_message_ids.add(message.message_id)
                return dramatiq.MessageProxy(message)
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None


def _bell(namespace: str, queue_name: str) -> str:
    return f"{namespace}:{queue_name}.bell"


class DoorbellBroker(RedisBroker):
    """A RedisBroker without middleware and delay queues, whose consumers block instead of polling and believe only seals."""

    def __init__(self, url: str, seals: Seals, refused: Refused) -> None:
        name = str(uuid.uuid4())
        super().__init__(  # type: ignore[no-untyped-call]
            # Its connections carry its name, so that others can tell whether the process still lives.
            client=redis.Redis.from_url(url, client_name=name),
            middleware=[],
            heartbeat_timeout=_HEARTBEAT_TIMEOUT_MS,
            maintenance_chance=_MAINTENANCE_CHANCE,
        )
        self.broker_id = name
        self._seals = seals
        self._refused = refused

    @property
    def consumer_class(self) -> type[_BellConsumer]:
        return _BellConsumer

    def declare_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
        assert delay is None, "deadlines live in Postgres, not in the broker"
        # What dramatiq's script does for it, and the bell, at once.
        id = str(uuid.uuid4())
        message = message.copy(options={"redis_message_id": id})
        queue, bell = f"{self.namespace}:{message.queue_name}", _bell(self.namespace, message.queue_name)
        with self.client.pipeline() as pipeline:
            pipeline.hset(f"{queue}.msgs", id, message.encode())
            pipeline.rpush(queue, id)
            pipeline.lpush(bell, b"1")
            pipeline.ltrim(bell, 0, _BELL_MAX - 1)
            pipeline.execute()
        return message

    def open(self, queue_name: str, data: bytes) -> "dramatiq.Message[Any] | None":
        """The message, if one of our processes put it into this queue. What it is not is refused: nobody waits for it, and Postgres
        will send again what it may have been."""
        wire = self._true(queue_name, data)
        if wire is None:
            self._refused(queue_name, DELIVERY)
            return None
        return dramatiq.Message(
            queue_name=queue_name,
            actor_name=wire.actor_name,
            args=(),
            kwargs={"delivery": wire.kwargs.delivery},
            options={"redis_message_id": wire.options.redis_message_id},
            message_id=wire.message_id,
            message_timestamp=wire.message_timestamp,
        )

    def _true(self, queue_name: str, data: bytes) -> _WireMessage | None:
        try:
            wire = _wire_decoder.decode(data)
        except _UNREADABLE:
            return None
        for_us = wire.queue_name == queue_name and wire.actor_name == _actor(queue_name)
        sealed = wire.kwargs
        true = for_us and self._seals.is_true(delivery_channel(queue_name), sealed.delivery, sealed.seal)
        return wire if true else None

    def forget(self, queue_name: str, data: bytes) -> None:
        """Let the broker drop what was refused, as far as that says where it is."""
        with contextlib.suppress(*_UNREADABLE):
            self.do_ack(queue_name, _placed_decoder.decode(data).options.redis_message_id)

    def take_from_the_dead(self, queue_name: str) -> list[bytes]:
        """Messages of a queue that were fetched by processes which have ended. They do not come back to the queue as copies.

        A process has ended when the broker has no connection of its name. One that is stopped keeps its connections.
        """
        # In this order: whoever comes in between is not among the names, and so not taken for dead.
        names: Any = self.client.zrange(f"{self.namespace}:__heartbeats__", 0, -1)
        alive = {client["name"] for client in self.client.client_list()}
        dead = [name.decode() for name in names if name.decode() not in alive]
        fault("lost.found")
        return [data for name in dead for data in self._take_fetched(name, queue_name)]

    def _take_fetched(self, name: str, queue_name: str) -> list[bytes]:
        fetched, messages = f"{self.namespace}:__acks__.{name}.{queue_name}", f"{self.namespace}:{queue_name}.msgs"
        ids: Any = self.client.smembers(fetched)
        if not ids:
            return []
        with self.client.pipeline() as pipeline:
            pipeline.hmget(messages, list(ids))
            pipeline.hdel(messages, *ids)
            pipeline.delete(fetched)
            found: list[bytes | None] = pipeline.execute()[0]
        fault("lost.taken")
        return [data for data in found if data is not None]


class Broker:
    """What relays and workers need of the broker. May lose everything at any moment."""

    def __init__(self, url: str, seals: Seals, refused: Refused) -> None:
        dramatiq.set_encoder(_RawEncoder())
        self.dramatiq = DoorbellBroker(url, seals, refused)
        self._seals = seals
        self._refused = refused
        self._client: redis.Redis = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2)

    def close(self) -> None:
        self.dramatiq.close()
        self.dramatiq.client.close()
        self._client.close()

    def publish(self, destination: str, delivery: Delivery) -> None:
        """Put one delivery into its consumer's queue. Raises redis.RedisError when the broker does not take it."""
        body = encode_delivery(delivery)
        seal = self._seals.seal(delivery_channel(destination), body)
        self.dramatiq.enqueue(
            dramatiq.Message(
                queue_name=destination,
                actor_name=_actor(destination),
                args=(),
                kwargs={"delivery": body, "seal": seal},
                options={},
            )
        )

    def unread(self, destination: str) -> int:
        """How many messages of a queue nobody has fetched. Raises redis.RedisError."""
        count: Any = self._client.llen(f"{self.dramatiq.namespace}:{destination}")
        return int(count)

    def declare_consumer(self, name: str, receive: Callable[[bytes], None], priority: int) -> None:
        """Call `receive` with each raw delivery in the queue `name`; it must not raise. The lowest `priority` goes first."""

        def act(delivery: bytes) -> None:
            receive(delivery)

        self.dramatiq.declare_actor(
            dramatiq.Actor(
                act, broker=self.dramatiq, actor_name=_actor(name), queue_name=name, priority=priority, options={}
            )
        )

    def acknowledge(self, source: str, acknowledgements: list[Acknowledgement]) -> None:
        """Tell the source's relay. Lost ones cost a repeated delivery, nothing else."""
        self._say(_acknowledgements(source), acknowledgement_channel(source), _encoder.encode(acknowledgements))

    def _say(self, key: str, channel: str, said: bytes) -> None:
        sealed = _Sealed(msgspec.Raw(said), self._seals.seal(channel, said))
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.rpush(key, _encoder.encode(sealed))
            pipeline.ltrim(key, -_ACKNOWLEDGEMENTS_MAX, -1)
            pipeline.execute()

    def tell_what_was_lost(self, destination: str) -> int:
        """Tell the sources what processes had in hand of a queue when they ended, so that nobody waits for its lease; how many
        deliveries. Who only seems to have ended costs a repeated delivery, nothing else. Raises redis.RedisError.
        """
        lost = list(self._deliveries(destination, self.dramatiq.take_from_the_dead(destination)))
        for delivery in lost:
            batches = [Acknowledgement(batch.id, Outcome.LOST, batch.deliveries) for batch in delivery.batches]
            self.acknowledge(delivery.source, batches)
            fault("lost.told")
        return len(lost)

    def _deliveries(self, destination: str, messages: list[bytes]) -> Iterator[Delivery]:
        for data in messages:
            # What is none was in work when the process ended; nobody waits for it.
            if message := self.dramatiq.open(destination, data):
                with contextlib.suppress(msgspec.DecodeError):
                    yield decode_delivery(message.kwargs["delivery"])

    def take_acknowledgements(self, source: str, wait_seconds: float) -> list[Acknowledgement]:
        """What consumers have acknowledged to `source`; waits up to `wait_seconds` for the first."""
        key = _acknowledgements(source)
        taken: Any = self._client.blmpop(wait_seconds, 1, key, direction="LEFT", count=_ACKNOWLEDGEMENTS_AT_ONCE)
        if taken is None:
            return []
        channel, refuse = acknowledgement_channel(source), partial(self._refused, source, ACKNOWLEDGEMENT)
        said = self._true(channel, taken[1], refuse)
        return [acknowledgement for each in said for acknowledgement in _decode_acknowledgements(each)]

    def report(self, refused: Message[MessageRefused]) -> None:
        """Tell the auditor what was refused where nobody can put it on record. Raises redis.RedisError."""
        self._say(_REPORTS, REPORT_CHANNEL, encode_message(refused))

    def take_reports(self) -> list[Message[Any]]:
        """What was reported, a bounded number; for the auditor alone."""
        taken: Any = self._client.lpop(_REPORTS, _REPORTS_AT_ONCE) or []
        said = self._true(REPORT_CHANNEL, taken, partial(self._refused, "auditor", REPORT))
        return decode_messages(join_messages(said))

    def _true(self, channel: str, taken: Iterable[bytes], refuse: Callable[[], None]) -> Iterator[bytes]:
        """What of this was said by our processes on `channel`."""
        for data in taken:
            try:
                sealed = _sealed_decoder.decode(data)
                said = bytes(sealed.said)
                true = self._seals.is_true(channel, said, sealed.seal)
            except _UNREADABLE:
                true = False
            if true:
                yield said
            else:
                refuse()


def _decode_acknowledgements(data: bytes) -> list[Acknowledgement]:
    try:
        return decode_acknowledgements(data)
    except msgspec.DecodeError:
        return []  # of a release that says more; their batches come again by their leases


def _actor(queue_name: str) -> str:
    return f"{queue_name}.receive"


def _acknowledgements(source: str) -> str:
    return f"brokage:{source}.acks"
