"""Messages in the broker repeated, reordered, deleted, sent again late, poisoned, and forged.

The worker is stopped meanwhile, so that there are unread ones; the effect is how many there were, and of poison that it was taken
and, if it could be read, parked. All have the system's own seals, as what a broker does to messages leaves them theirs; but for
forgeries, which are taken and have no effect.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
import redis

from infra.faults.kinds.processes import stopped
from infra.faults.system import NotInTime, wait_until
from infra.faults.wire import copy_of, delivery_in, wire_message
from infra.faults.world import Kind, World, kind
from infra.services import SERVICES
from shared.ids import new_id
from shared.messaging.delivery import Batch, Delivery, encode_delivery
from shared.messaging.seal import Seals

_UNREAD_SECONDS = 4.0
_TAKEN_SECONDS = 20.0
_PARKED_SECONDS = 30.0
_LATER_SECONDS = 6.0
READERS = tuple(service for service in SERVICES if service != "customer_service")
"""Who has a queue that somebody reads."""
_POSTGRES_READERS = {
    "order_service": "brokage_orders",
    "asset_service": "brokage_assets",
    "processor": "brokage_processor",
}

Unread = list[tuple[str, bytes, bytes]]
"""Queue, message id and message, in the order in which they would be read."""


def _queue(name: str) -> str:
    return f"dramatiq:{name}"


def _put(valkey: redis.Redis, queue: str, id: str, data: bytes) -> None:
    valkey.hset(f"{_queue(queue)}.msgs", id, data)
    valkey.rpush(_queue(queue), id)


def _unread(valkey: redis.Redis) -> Unread:
    found: Unread = []
    for queue in SERVICES:
        ids: list[bytes] = valkey.lrange(_queue(queue), 0, -1)  # type: ignore[assignment]
        for id in ids:
            data: Any = valkey.hget(f"{_queue(queue)}.msgs", id)
            if data is not None:
                found.append((queue, id, data))
    return found


@contextmanager
def _worker_stopped(world: World, enough: Callable[[Unread], bool]) -> Iterator[tuple[redis.Redis, Unread]]:
    """What the stopped worker has not read, once that is `enough` or nothing more comes."""
    with world.valkey() as valkey, stopped(world.system.pid("worker")):
        deadline = time.monotonic() + _UNREAD_SECONDS
        while not enough(found := _unread(valkey)) and time.monotonic() < deadline and not world.ending.is_set():
            time.sleep(0.1)
        yield valkey, found


def _duplicate(world: World, chosen: random.Random) -> str | None:
    with _worker_stopped(world, lambda found: len(found) >= 2) as (valkey, found):
        for queue, _, data in found:
            for _ in range(2):
                _put(valkey, queue, *copy_of(data))
    return f"{len(found)} messages three times" if found else None


def _shuffle(world: World, chosen: random.Random) -> str | None:
    def movable(found: Unread) -> bool:
        queues = [queue for queue, _, _ in found]
        return any(queues.count(queue) >= 2 for queue in queues)

    moved = 0
    with _worker_stopped(world, movable) as (valkey, found):
        for queue in {queue for queue, _, _ in found}:
            ids = [id for of, id, _ in found if of == queue]
            if len(ids) >= 2:
                valkey.delete(_queue(queue))
                valkey.rpush(_queue(queue), *ids[1:], ids[0])
                moved += len(ids)
    return f"{moved} messages in another order" if moved else None


def _delete(world: World, chosen: random.Random) -> str | None:
    with _worker_stopped(world, bool) as (valkey, found):
        for queue, id, _ in found:
            valkey.lrem(_queue(queue), 0, id)  # type: ignore[arg-type]
            valkey.hdel(f"{_queue(queue)}.msgs", id)
    return f"{len(found)} messages gone" if found else None


def _again_later(world: World, chosen: random.Random) -> str | None:
    """A copy of what is read now comes when newer messages have had their effect."""
    with _worker_stopped(world, bool) as (_, found):
        kept = [(queue, *copy_of(data)) for queue, _, data in found]
    world.pause(_LATER_SECONDS)
    with world.valkey() as valkey:
        for queue, id, data in kept:
            _put(valkey, queue, id, data)
        taken = _wait_taken(valkey, [(queue, id) for queue, id, _ in kept])
    return f"{taken} messages again, {_LATER_SECONDS:.0f} s later" if taken else None


def _wait_taken(valkey: redis.Redis, messages: list[tuple[str, str]]) -> int:
    """How many of these left their queues in time."""

    def left() -> int:
        return sum(id.encode() not in valkey.lrange(_queue(queue), 0, -1) for queue, id in messages)

    deadline = time.monotonic() + _TAKEN_SECONDS
    while (gone := left()) < len(messages) and time.monotonic() < deadline:
        time.sleep(0.2)
    return gone


def _unreadable(make: Callable[[World, str], tuple[str, bytes]]) -> Callable[[World, random.Random], str | None]:
    """Poison that is no delivery: it is taken, dropped, and harms nobody."""

    def inject(world: World, chosen: random.Random) -> str | None:
        queue = chosen.choice(READERS)
        id, data = make(world, queue)
        with world.valkey() as valkey:
            _put(valkey, queue, id, data)
            taken = _wait_taken(valkey, [(queue, id)])
        return f"{len(data):,} bytes taken from {queue}" if taken else None

    return inject


def _not_json(world: World, queue: str) -> tuple[str, bytes]:
    return new_id(), b'\x00\xff{"queue_name": '


def _huge(world: World, queue: str) -> tuple[str, bytes]:
    return new_id(), b'{"filler": "' + b"x" * 5_000_000 + b'"}'


def _no_delivery(world: World, queue: str) -> tuple[str, bytes]:
    return wire_message(queue, b'{"lane": "one"}', world.seals())


def _for_nobody(world: World, queue: str) -> tuple[str, bytes]:
    return wire_message(queue, b"{}", world.seals(), actor_name="nobody.receive")


def _event(**changes: Any) -> dict[str, Any]:
    id = new_id()
    return {
        "event_id": new_id(),
        "type": "OrderConfirmed",
        "version": 1,
        "occurred_at": "2026-01-01T00:00:00Z",
        "aggregate_type": "order",
        "aggregate_id": id,
        "aggregate_version": 1,
        "customer_id": 1,
        "organization_id": "00000000-0000-7000-8000-000000000001",
        "actor": {"id": None, "role": "SYSTEM", "on_behalf_of": None},
        "correlation_id": new_id(),
        "causation_id": None,
        "payload": {},
        **changes,
    }


def _delivery_of(batch_id: str, event: dict[str, Any]) -> bytes:
    batch = Batch(batch_id, 1, msgspec.Raw(msgspec.json.encode([event])))
    return encode_delivery(Delivery("faults", [batch]))


def _forge_delivery(world: World, chosen: random.Random) -> str | None:
    """A delivery of somebody without our key. Were it believed, its reader had a receipt, and perhaps a dead letter, of what
    nobody has sent: unlike those of poison, they are not among those that the run excuses."""
    queue = chosen.choice(READERS)
    stranger = chosen.choice([None, Seals({1: chosen.randbytes(32)})])
    id, data = wire_message(queue, _delivery_of(new_id(), _event()), stranger)
    with world.valkey() as valkey:
        _put(valkey, queue, id, data)
        taken = _wait_taken(valkey, [(queue, id)])
    return f"taken from {queue}, and refused" if taken else None


def _forge_acknowledgements(world: World, chosen: random.Random) -> str | None:
    """Deliveries taken away and acknowledged in their reader's name. Were that believed, nobody would send them again: their reader
    had acknowledged what it has not processed."""
    with _worker_stopped(world, bool) as (valkey, found):
        for queue, id, data in found:
            valkey.lrem(_queue(queue), 0, id)  # type: ignore[arg-type]
            valkey.hdel(f"{_queue(queue)}.msgs", id)
            delivery = delivery_in(data)
            acknowledgements = [{"batch_id": batch.id} for batch in delivery.batches]
            sealed = {"said": acknowledgements, "seal": chosen.randbytes(32).hex()}
            valkey.rpush(f"brokage:{delivery.source}.acks", json.dumps(sealed))
    return f"{len(found)} deliveries taken away and acknowledged" if found else None


def _poison(changes: dict[str, Any]) -> Callable[[World, random.Random], str | None]:
    """A delivery whose one event cannot be handled: it is parked, where a person sees it, and nothing else waits for it."""

    def inject(world: World, chosen: random.Random) -> str | None:
        queue = chosen.choice(list(_POSTGRES_READERS))
        event, batch_id = _event(**changes), new_id()
        world.forged |= {batch_id, event["event_id"]}
        with world.valkey() as valkey:
            _put(valkey, queue, *wire_message(queue, _delivery_of(batch_id, event), world.seals()))

        def parked() -> bool:
            try:
                with world.postgres(_POSTGRES_READERS[queue]) as connection:
                    return bool(
                        connection.execute(
                            "SELECT 1 FROM dead_letters WHERE event_id = %s", (event["event_id"],)
                        ).fetchone()
                    )
            except psycopg.OperationalError:
                return False

        try:
            wait_until(parked, _PARKED_SECONDS, "the poison parked")
        except NotInTime:
            return None
        return f"parked by {queue}"

    return inject


KINDS: tuple[Kind, ...] = (
    kind("duplicate messages", "worker", "valkey", weight=3)(_duplicate),
    kind("shuffle messages", "worker", "valkey", weight=3)(_shuffle),
    kind("delete messages", "worker", "valkey", weight=3)(_delete),
    kind("old messages again", "worker", "valkey", weight=2)(_again_later),
    kind("forged delivery", "worker", "valkey", weight=2)(_forge_delivery),
    kind("forged acknowledgements", "worker", "valkey", weight=2)(_forge_acknowledgements),
    kind("message that is no JSON", "worker", "valkey")(_unreadable(_not_json)),
    kind("message of 5 MB", "worker", "valkey")(_unreadable(_huge)),
    kind("message without a delivery", "worker", "valkey")(_unreadable(_no_delivery)),
    kind("message for nobody", "worker", "valkey")(_unreadable(_for_nobody)),
    kind("event of unknown type", "worker", "valkey")(_poison({"type": "NeverHeardOf"})),
    kind("event of unknown version", "worker", "valkey")(_poison({"version": 99})),
    kind("event without its fields", "worker", "valkey")(_poison({})),
)
