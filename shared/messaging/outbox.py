"""The source's side: outbox batches, how they are written, claimed and acknowledged.

`Outbox` collects what a transaction says and writes it last. `choose` is the claim's decision, pure. `PostgresOutbox` is the
claim on a real database; the relay drives it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from shared.contracts.message import (
    SERIAL_READERS,
    Message,
    encode_message,
    join_messages,
    lane_of,
    partition_of_message,
)
from shared.faults import fault
from shared.ids import new_id, uuid_array
from shared.messaging.delivery import Acknowledgement, Batch, Outcome
from shared.messaging.locks import LANE_LOCK, RELAY_LOCK
from shared.settings import ServiceSettings

if TYPE_CHECKING:
    from shared.db.engine import Database
    from shared.db.unit_of_work import Connection

BATCH_EVENTS_MAX = 500
LANES_MAX = 64
TELLING = frozenset({"notifier", "auditor"})
"""Readers that move no orders. While they are away trading goes on, and what they are owed waits in the outbox."""
MIXED = "Batch"
"""`event_type` of a batch whose events differ in type."""
NOTIFY_CHANNEL = "outbox"
_DOUBLINGS_MAX = 6
_SERIAL_TIMES = 2
_ASK_AT_ONCE = 200
_LOOK_AGAIN_SECONDS = 1.0
"""After which a queue that somebody did not read is looked at again."""
_DEFERRED_SECONDS = 2.0


@cache
def lanes_per_destination() -> int:
    """How many lanes each destination has (setting `lanes`), the same in every process that writes to an outbox.

    Change it on an empty outbox: while batches wait, two lanes could carry one aggregate.
    """
    return ServiceSettings().lanes


@dataclass(slots=True)
class _Batch:
    """A batch while its transaction goes on: `events` as they will stand in it."""

    id: str
    first: Message[Any]
    event_type: str
    events: list[bytes]


class Outbox:
    """What one transaction has to say, by destination and lane."""

    def __init__(self) -> None:
        self._batches: dict[tuple[str, int], list[_Batch]] = {}
        self._lanes = lanes_per_destination()

    def add(self, destinations: tuple[str, ...], message: Message[Any]) -> None:
        """Say `message` to each of these. It is encoded once, however many they are."""
        # A tuple, because a single name would pass for an iterable of names, each of one letter.
        event = encode_message(message)
        partition = partition_of_message(message)
        for destination in destinations:
            batches = self._batches.setdefault((destination, lane_of(partition, destination, self._lanes)), [])
            if not batches or len(batches[-1].events) == BATCH_EVENTS_MAX:
                batches.append(_Batch(new_id(), message, message.type, []))
            batch = batches[-1]
            batch.events.append(event)
            if batch.event_type != message.type:
                batch.event_type = MIXED

    def batch_id(self, destination: str, message: Message[Any]) -> str:
        """The id of the batch that `message`, just added, is in."""
        return self._batches[(destination, lane_of(partition_of_message(message), destination, self._lanes))][-1].id

    def flush(self, connection: "Connection") -> None:
        """Write the batches. `seq` is assigned under the lane's lock, which is held until commit: so in each lane the order of
        `seq` is the order of commits, and who reads up to some `seq` has missed nothing before it."""
        if not self._batches:
            return
        lanes = sorted(self._batches)
        rows, copies = self._rows(lanes)
        with connection.pipeline():
            connection.execute(
                _LOCK_AND_RING,
                {"kind": LANE_LOCK, "lanes": [f"{destination}/{lane}" for destination, lane in lanes]},
            )
            connection.execute(_insert_batches(len(rows)), [value for row in rows for value in row])
            if copies:
                ids, destinations, numbers, originals = zip(*copies, strict=True)
                values = {"ids": uuid_array(ids), "destinations": list(destinations), "lanes": list(numbers)}
                connection.execute(_COPY_BATCHES, values | {"originals": uuid_array(originals)})
        self._batches.clear()

    def _rows(self, lanes: list[tuple[str, int]]) -> tuple[list[tuple[Any, ...]], list[tuple[str, str, int, str]]]:
        """The batches to write, and those that are to have what another one of these has: id, destination, lane, the other's id.

        Postgres then copies what it has checked and compressed already. A lane is copied as a whole or not at all: its batches keep
        their order.
        """
        rows: list[tuple[Any, ...]] = []
        copies: list[tuple[str, str, int, str]] = []
        written: dict[tuple[int, ...], list[_Batch]] = {}
        for destination, lane in lanes:
            batches = self._batches[(destination, lane)]
            # An event is the same object for all its readers.
            events = tuple(id(event) for batch in batches for event in batch.events)
            if originals := written.get(events):
                copies += [(b.id, destination, lane, o.id) for b, o in zip(batches, originals, strict=True)]
            else:
                written[events] = batches
                rows += [_row(batch, destination, lane) for batch in batches]
        return rows, copies


@cache
def _insert_batches(count: int) -> str:
    # The payloads as parameters of their own: inside a document of all rows each would be parsed twice.
    rows = ", ".join(["(%s, %s, %s, nextval('outbox_seq'), %s, %s, %s, %s, %s, (SELECT brokage_now()))"] * count)
    return (
        "INSERT INTO outbox_events"
        " (id, destination, lane, seq, aggregate_type, aggregate_id, event_type, payload, event_count, created_at)"
        f" VALUES {rows}"
    )


def _row(batch: _Batch, destination: str, lane: int) -> tuple[Any, ...]:
    return (
        batch.id,
        destination,
        lane,
        batch.first.aggregate_type,
        batch.first.aggregate_id,
        batch.event_type,
        join_messages(batch.events).decode(),
        len(batch.events),
    )


@dataclass(frozen=True, slots=True)
class Candidate:
    """An unanswered batch, as the claim sees it. `lease_until` is None until it was sent; with a lease but no `published_at` it is
    to be sent once more and in no queue meanwhile."""

    id: str
    event_count: int
    lease_until: datetime | None
    published_at: datetime | None = None
    deliveries: int = 0


def choose(
    candidates: Sequence[Candidate],
    *,
    now: datetime,
    events_max: int,
    unread: bool = False,
    patience: timedelta = timedelta(),
) -> tuple[list[Candidate], bool]:
    """Which batches of one lane to send now, and whether to only extend the lease of what is outstanding.

    At most one message per lane is outstanding: while any batch's lease runs, nothing goes. When it ran out, the same batches go
    again, first and alone, so that the consumer sees them before anything newer; unless the queue still holds unread messages and
    they were published less than `patience` ago: then the message is probably among them, and only the lease is extended. Patience
    doubles with each delivery, so that a queue nobody reads does not fill with copies.

    Args:
        candidates: the lane's unanswered batches by `seq`, the oldest ones.
        unread: whether the destination's queue holds messages nobody has fetched.
    """
    outstanding = [candidate for candidate in candidates if candidate.lease_until is not None]
    if outstanding:
        if any(candidate.lease_until > now for candidate in outstanding if candidate.lease_until):
            return [], False
        published = [candidate.published_at for candidate in outstanding if candidate.published_at is not None]
        if not published:
            return outstanding, False
        repeats = max(candidate.deliveries for candidate in outstanding) - 1
        return outstanding, unread and now - min(published) < patience * 2 ** min(max(repeats, 0), _DOUBLINGS_MAX)
    chosen: list[Candidate] = []
    events = 0
    for candidate in candidates:
        if chosen and events + candidate.event_count > events_max:
            break
        chosen.append(candidate)
        events += candidate.event_count
    return chosen, False


def events_at_once(destination: str, events_max: int) -> int:
    """How many events one message may carry there. A serial reader has nothing else in hand while its next message is on its way,
    and no order waits for it: it gets more at once."""
    return events_max * _SERIAL_TIMES if destination in SERIAL_READERS else events_max


@dataclass(slots=True)
class Claim:
    """What the relay has to publish as one message: batches of one reader's `lanes`, each lane's in order."""

    destination: str
    lanes: list[int]
    batches: list[Batch]
    events: int


def pack(
    lanes: Mapping[tuple[str, int], Sequence[Batch]], events: Mapping[str, int], *, events_max: int
) -> list[Claim]:
    """The messages for what was claimed of some lanes, by destination and lane.

    Lanes of one reader share a message where that is not too large: one of both costs little more than one of one. What is sent
    again goes lane by lane, so that whatever stands in the way of a lane stands in no other's.

    Args:
        events: of each batch, by id.
        events_max: of a message that lanes share.
    """
    claims: list[Claim] = []
    shared: dict[str, Claim] = {}
    for (destination, lane), batches in lanes.items():
        size = sum(events[batch.id] for batch in batches)
        again = any(batch.deliveries > 1 for batch in batches)
        claim = None if again else shared.get(destination)
        if claim is None or claim.events + size > events_max:
            claim = Claim(destination, [], [], 0)
            claims.append(claim)
            if not again:
                shared[destination] = claim
        claim.lanes.append(lane)
        claim.batches += batches
        claim.events += size
    return claims


class QueueDepth(Protocol):
    def __call__(self, destination: str) -> int: ...


class PostgresOutbox:
    """Claims and acknowledgements on `outbox_events`. Safe with any number of relays: they take turns under one lock."""

    def __init__(self, database: "Database", *, lease_seconds: float, events_max: int) -> None:
        self._database = database
        self._lease_seconds = lease_seconds
        self._events_max = events_max

    def step(
        self, acknowledgements: Sequence[Acknowledgement], queue_depth: QueueDepth, left_out: Collection[str] = ()
    ) -> list[Claim]:
        """Write the acknowledgements and claim what may be sent, but for no reader `left_out`, in one transaction. The caller
        publishes after it."""
        return self._database.run(lambda unit: self._step(unit.connection, acknowledgements, queue_depth, left_out))

    def _step(
        self,
        connection: "Connection",
        acknowledgements: Sequence[Acknowledgement],
        queue_depth: QueueDepth,
        left_out: Collection[str],
    ) -> list[Claim]:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (RELAY_LOCK,))
        if acknowledgements:
            connection.execute(
                _ACKNOWLEDGE,
                {
                    "acked": uuid_array(a.batch_id for a in acknowledgements if a.outcome is Outcome.ACKED),
                    "parked": uuid_array(a.batch_id for a in acknowledgements if a.outcome is Outcome.PARKED),
                },
            )
            self._end_leases(connection, [a for a in acknowledgements if a.outcome in (Outcome.LOST, Outcome.DEFERRED)])
            fault("outbox.acknowledged")
        lanes: dict[tuple[str, int], list[Candidate]] = {}
        now: datetime | None = None
        values = {"batches_max": self._events_max * _SERIAL_TIMES, "left_out": list(left_out)}
        for row in connection.execute(_CANDIDATES, values):
            now = row["now"]
            candidate = Candidate(
                row["id"], row["event_count"], row["lease_until"], row["published_at"], row["retry_count"]
            )
            lanes.setdefault((row["destination"], row["lane"]), []).append(candidate)
        if now is None:
            return []
        send, extend = self._decide(lanes, now, queue_depth)
        if extend:
            connection.execute(_EXTEND, {"ids": extend, "lease": min(self._lease_seconds, _LOOK_AGAIN_SECONDS)})
        return self._mark_sent(connection, send) if send else []

    def _end_leases(self, connection: "Connection", returned: Sequence[Acknowledgement]) -> None:
        """What ended with its worker goes again at once, what was deferred in a moment. Of a batch that was sent anew since, that
        one's lease decides."""
        if returned:
            values = {
                "ids": uuid_array(a.batch_id for a in returned),
                "deliveries": [a.deliveries for a in returned],
                "deferred": [a.outcome is Outcome.DEFERRED for a in returned],
                "seconds": _DEFERRED_SECONDS,
            }
            connection.execute(_END_LEASES, values)
            fault("outbox.leases_ended")

    def _decide(
        self,
        lanes: dict[tuple[str, int], list[Candidate]],
        now: datetime,
        queue_depth: QueueDepth,
    ) -> tuple[list[str], list[str]]:
        """Which batches to send, and of which only to extend the lease."""
        send: list[str] = []
        extend: list[str] = []
        for (destination, _), candidates in lanes.items():
            expired = candidates[0].lease_until is not None and candidates[0].lease_until <= now
            chosen, wait = choose(
                candidates,
                now=now,
                events_max=events_at_once(destination, self._events_max),
                unread=expired and queue_depth(destination) > 0,
                patience=timedelta(seconds=4 * self._lease_seconds),
            )
            (extend if wait else send).extend(candidate.id for candidate in chosen)
        return send, extend

    def _mark_sent(self, connection: "Connection", ids: list[str]) -> list[Claim]:
        lanes: dict[tuple[str, int], list[Batch]] = {}
        rows = connection.execute(_MARK_SENT, {"ids": uuid_array(ids), "lease": self._lease_seconds}).fetchall()
        fault("outbox.marked_sent")
        for row in sorted(rows, key=lambda row: row["seq"]):
            batch = Batch(row["id"], row["retry_count"], msgspec.Raw(row["payload"].encode()))
            lanes.setdefault((row["destination"], row["lane"]), []).append(batch)
        events = {row["id"]: row["event_count"] for row in rows}
        return pack(lanes, events, events_max=self._events_max)

    def release(self, claims: Sequence[Claim]) -> None:
        """The broker did not take these: that was no delivery, and their leases run out now, not in seconds. Best effort.

        What was never sent goes back to waiting. Should the broker have taken it all the same, it is still acknowledged.
        """
        ids = [batch.id for claim in claims for batch in claim.batches]
        self._database.run(lambda unit: unit.connection.execute(_RELEASE, {"ids": ids}) and None)

    def ask_again(self, *, young_seconds: float, limit: int = _ASK_AT_ONCE) -> int:
        """Send parked batches once more, those first that were answered the longest ago; how many.

        Their consumer has had them and does nothing; it answers whether somebody still waits in them. So a batch whose dead letters
        were requeued becomes ACKED. Only while the record of what was processed is kept: an old one would be taken for a new one.
        """
        return self._database.run(
            lambda unit: unit.connection.execute(_ASK_AGAIN, {"young": young_seconds, "limit": limit}).rowcount
        )


_LOCK_AND_RING = f"""
    SELECT pg_advisory_xact_lock(%(kind)s, hashtext(lane)), pg_notify('{NOTIFY_CHANNEL}', '')
      FROM unnest(%(lanes)s::text[]) AS lane
"""
_COPY_BATCHES = """
    INSERT INTO outbox_events
           (id, destination, lane, seq, aggregate_type, aggregate_id, event_type, payload, event_count, created_at)
    SELECT id, destination, lane, nextval('outbox_seq'), aggregate_type, aggregate_id, event_type, payload, event_count, created_at
      FROM (SELECT copy.*, o.aggregate_type, o.aggregate_id, o.event_type, o.payload, o.event_count, o.created_at
              FROM unnest(%(ids)s::uuid[], %(destinations)s::text[], %(lanes)s::int[], %(originals)s::uuid[])
                   WITH ORDINALITY AS copy (id, destination, lane, original, place)
              JOIN outbox_events AS o ON o.id = copy.original
             ORDER BY place) AS copy
"""
# Lanes are found by skipping through the partial index, one look-up per lane, however many batches wait in it. Of a lane whose
# lease runs only that is to be known: its oldest batch, which is always among those outstanding, says so.
_CANDIDATES = """
    WITH RECURSIVE lanes AS (
        (SELECT destination, lane FROM outbox_events WHERE acked_at IS NULL ORDER BY destination, lane LIMIT 1)
        UNION ALL
        SELECT next.destination, next.lane
          FROM lanes, LATERAL (
            SELECT destination, lane FROM outbox_events
             WHERE acked_at IS NULL AND (destination, lane) > (lanes.destination, lanes.lane)
             ORDER BY destination, lane LIMIT 1) AS next)
    SELECT destination, lane, batch.*, (SELECT brokage_now()) AS now
      FROM lanes, LATERAL (
        SELECT id, event_count, lease_until, published_at, retry_count FROM outbox_events AS o
         WHERE o.acked_at IS NULL AND o.destination = lanes.destination AND o.lane = lanes.lane
           AND lanes.destination <> ALL(%(left_out)s::text[])
         ORDER BY seq LIMIT 1) AS oldest, LATERAL (
        SELECT oldest.* WHERE oldest.lease_until > (SELECT brokage_now())
        UNION ALL (
        SELECT id, event_count, lease_until, published_at, retry_count FROM outbox_events AS o
         WHERE o.acked_at IS NULL AND o.destination = lanes.destination AND o.lane = lanes.lane
           AND (oldest.lease_until IS NULL OR oldest.lease_until <= (SELECT brokage_now()))
         ORDER BY seq LIMIT %(batches_max)s)) AS batch
"""
_MARK_SENT = """
    UPDATE outbox_events
       SET status = 'SENT', retry_count = retry_count + 1, published_at = coalesce(published_at, (SELECT brokage_now())),
           lease_until = (SELECT brokage_now()) + make_interval(secs => %(lease)s)
     WHERE id = ANY(%(ids)s::uuid[]) AND acked_at IS NULL
    RETURNING id, destination, lane, seq, retry_count, event_count, payload::text AS payload
"""
_EXTEND = """
    UPDATE outbox_events SET lease_until = (SELECT brokage_now()) + make_interval(secs => %(lease)s)
     WHERE id = ANY(%(ids)s::uuid[]) AND acked_at IS NULL
"""
_RELEASE = """
    UPDATE outbox_events
       SET retry_count = greatest(retry_count - 1, 0), published_at = NULL,
           lease_until = CASE WHEN retry_count > 1 THEN (SELECT brokage_now()) END
     WHERE id = ANY(%(ids)s::uuid[]) AND acked_at IS NULL
"""
_ACKNOWLEDGE = """
    UPDATE outbox_events
       SET status = CASE WHEN id = ANY(%(parked)s::uuid[]) THEN 'PARKED' ELSE 'ACKED' END, acked_at = (SELECT brokage_now())
     WHERE id = ANY(%(acked)s::uuid[] || %(parked)s::uuid[]) AND acked_at IS NULL AND status = 'SENT'
"""
_END_LEASES = """
    UPDATE outbox_events AS batch
       SET retry_count = batch.retry_count - returned.deferred::int, published_at = NULL,
           lease_until = (SELECT brokage_now()) + make_interval(secs => CASE WHEN returned.deferred THEN %(seconds)s ELSE 0 END)
      FROM unnest(%(ids)s::uuid[], %(deliveries)s::int[], %(deferred)s::boolean[]) AS returned (id, deliveries, deferred)
     WHERE batch.id = returned.id AND batch.retry_count = returned.deliveries AND batch.acked_at IS NULL
       AND batch.status = 'SENT'
"""
_ASK_AGAIN = """
    UPDATE outbox_events SET status = 'SENT', acked_at = NULL, published_at = NULL, lease_until = brokage_now()
     WHERE id IN (SELECT id FROM outbox_events
                   WHERE parked AND created_at > brokage_now() - make_interval(secs => %(young)s)
                   ORDER BY acked_at LIMIT %(limit)s)
       AND status = 'PARKED'
"""
