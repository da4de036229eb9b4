"""dramatiq on Valkey, as a doorbell: one actor and one queue per consumer, no retries, no delays, nothing kept.

Postgres holds the truth (messaging.md), so dramatiq's own retries, delay queues and dead letters are not used. A consumer with
nothing to do blocks on a small list instead of polling, so a message is picked up at once and an idle worker costs nothing.
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import dramatiq
import msgspec
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.encoder import Encoder
from dramatiq.errors import ConnectionClosed, DecodeError

from shared.faults import fault
from shared.messaging.delivery import Acknowledgement, Delivery, Outcome, decode_acknowledgements, decode_delivery

# A worker that stopped answering loses its messages after this; the relay's lease is the real bound.
_HEARTBEAT_TIMEOUT_MS = 15_000
_MAINTENANCE_CHANCE = 100_000
_BELL_SECONDS = 1.0
_BELL_MAX = 64
_ACKNOWLEDGEMENTS_MAX = 100_000
_ACKNOWLEDGEMENTS_AT_ONCE = 1_000


class _WireMessage(msgspec.Struct):
    """dramatiq's message with the delivery left as it is: only the inbox decodes events."""

    queue_name: str
    actor_name: str
    args: list[msgspec.Raw]
    kwargs: dict[str, msgspec.Raw]
    options: dict[str, Any]
    message_id: str
    message_timestamp: int


class _RawEncoder(Encoder):
    def encode(self, data: dict[str, Any]) -> bytes:
        return msgspec.json.encode(data)

    def decode(self, data: bytes) -> dict[str, Any]:
        try:
            return msgspec.structs.asdict(msgspec.json.decode(data, type=_WireMessage))
        except msgspec.DecodeError as error:
            raise DecodeError("not a delivery", data, error) from None


class _BellConsumer(_RedisConsumer):
    """Waits on the queue's bell when there is nothing to fetch."""

    def __next__(self) -> Any:
        try:
            while True:
                if not self.message_cache and self.outstanding_message_count < self.prefetch:
                    self.message_cache = self.broker.do_fetch(
                        self.queue_name, self.prefetch - self.outstanding_message_count
                    )
                if not self.message_cache:
                    self.broker.client.blpop([_bell(self.broker.namespace, self.queue_name)], timeout=_BELL_SECONDS)
                    return None
                data = self.message_cache.pop(0)
                if data is None:
                    continue
                try:
                    message = dramatiq.Message.decode(data)
                except DecodeError:
                    # Not ours: nobody waits for it, and Postgres will send again what this may have been.
                    self.logger.error("Dropped an undecodable message from queue %r.", self.queue_name)
                    continue
                self.queued_message_ids.add(message.message_id)
                return dramatiq.MessageProxy(message)
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None


def _bell(namespace: str, queue_name: str) -> str:
    return f"{namespace}:{queue_name}.bell"


class DoorbellBroker(RedisBroker):
    """A RedisBroker without middleware and delay queues, whose consumers block instead of polling."""

    def __init__(self, url: str) -> None:
        name = str(uuid.uuid4())
        super().__init__(  # type: ignore[no-untyped-call]
            # Its connections carry its name, so that others can tell whether the process still lives.
            client=redis.Redis.from_url(url, client_name=name),
            middleware=[],
            heartbeat_timeout=_HEARTBEAT_TIMEOUT_MS,
            maintenance_chance=_MAINTENANCE_CHANCE,
        )
        self.broker_id = name

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
        result = super().enqueue(message)
        bell = _bell(self.namespace, message.queue_name)
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.lpush(bell, b"1")
            pipeline.ltrim(bell, 0, _BELL_MAX - 1)
            pipeline.execute()
        return result

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

    def __init__(self, url: str) -> None:
        dramatiq.set_encoder(_RawEncoder())
        self.dramatiq = DoorbellBroker(url)
        self._client: redis.Redis = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2)

    def close(self) -> None:
        self.dramatiq.close()
        self.dramatiq.client.close()
        self._client.close()

    def publish(self, destination: str, delivery: Delivery) -> None:
        """Put one delivery into its consumer's queue. Raises redis.RedisError when the broker does not take it."""
        self.dramatiq.enqueue(
            dramatiq.Message(
                queue_name=destination,
                actor_name=f"{destination}.receive",
                args=(),
                kwargs={"delivery": delivery},
                options={},
            )
        )

    def unread(self, destination: str) -> int:
        """How many messages of a queue nobody has fetched. Raises redis.RedisError."""
        count: Any = self._client.llen(f"{self.dramatiq.namespace}:{destination}")
        return int(count)

    def declare_consumer(self, name: str, receive: Callable[[bytes], None], priority: int) -> None:
        """Call `receive` with each raw delivery in the queue `name`; it must not raise. The lowest `priority` goes first."""

        def act(delivery: msgspec.Raw) -> None:
            receive(bytes(delivery))

        self.dramatiq.declare_actor(
            dramatiq.Actor(
                act, broker=self.dramatiq, actor_name=f"{name}.receive", queue_name=name, priority=priority, options={}
            )
        )

    def acknowledge(self, source: str, acknowledgements: list[Acknowledgement]) -> None:
        """Tell the source's relay. Lost ones cost a repeated delivery, nothing else."""
        key = _acknowledgements(source)
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.rpush(key, msgspec.json.encode(acknowledgements))
            pipeline.ltrim(key, -_ACKNOWLEDGEMENTS_MAX, -1)
            pipeline.execute()

    def tell_what_was_lost(self, destination: str) -> int:
        """Tell the sources what processes had in hand of a queue when they ended, so that nobody waits for its lease; how many
        deliveries. Who only seems to have ended costs a repeated delivery, nothing else. Raises redis.RedisError.
        """
        lost = list(_deliveries(self.dramatiq.take_from_the_dead(destination)))
        for delivery in lost:
            batches = [Acknowledgement(batch.id, Outcome.LOST, batch.deliveries) for batch in delivery.batches]
            self.acknowledge(delivery.source, batches)
            fault("lost.told")
        return len(lost)

    def take_acknowledgements(self, source: str, wait_seconds: float) -> list[Acknowledgement]:
        """What consumers have acknowledged to `source`; waits up to `wait_seconds` for the first."""
        key = _acknowledgements(source)
        first: Any = self._client.blpop([key], timeout=wait_seconds)
        if first is None:
            return []
        more: Any = self._client.lpop(key, _ACKNOWLEDGEMENTS_AT_ONCE) or []
        return [ack for data in (first[1], *more) for ack in _decode_acknowledgements(data)]


def _decode_acknowledgements(data: bytes) -> list[Acknowledgement]:
    try:
        return decode_acknowledgements(data)
    except msgspec.DecodeError:
        return []


def _deliveries(messages: list[bytes]) -> Iterator[Delivery]:
    for data in messages:
        # What is none was in work when the process ended; nobody waits for it.
        with contextlib.suppress(DecodeError, msgspec.DecodeError):
            yield decode_delivery(bytes(dramatiq.Message.decode(data).kwargs["delivery"]))


def _acknowledgements(source: str) -> str:
    return f"brokage:{source}.acks"
