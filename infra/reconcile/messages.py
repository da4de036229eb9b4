"""Invariant 8: every outbox batch arrived, and had its effect exactly once at its destination."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import merge
from operator import itemgetter
from typing import Any, Literal

from infra.reconcile.check import Check, Examined
from infra.reconcile.rest import Suspect, at_rest
from infra.reconcile.stores import MONGO, POSTGRES, Stores
from infra.reconcile.streams import Row, chunks, side_by_side, stream
from shared.db import Connection
from shared.settings import ServiceSettings

_LOOK_UPS = 1_000
_WINDOW = 0.9
"""The part of the time for which sent batches are kept in which we expect every one of them to be there still."""


def _arrived(stores: Stores, examined: Examined) -> None:
    _exactly_once(stores, examined)
    _said_once(stores, examined)
    for service in POSTGRES:
        at_rest(
            _stuck_lanes(stores, service),
            examined,
            stores.settings,
            recheck=lambda keys, service=service: _stuck_lanes(stores, service, keys),  # type: ignore[misc]
        )
    _parked(stores, examined)
    _dead_letters(stores, examined)


# -- what was sent, and what was processed -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """Between what was sent and what was processed: `reader` lacks an acknowledged batch, has a receipt of what nobody sent, or two
    sources have sent the same."""

    reader: str
    id: str
    what: Literal["not processed", "sent by nobody", "sent twice"]


_SAID = {
    "not processed": ("batch", "{reader} has acknowledged, but not processed it"),
    "sent by nobody": ("processed event", "{reader} has processed what nobody sent"),
    "sent twice": ("batch", "two sources have sent it"),
}


def _exactly_once(stores: Stores, examined: Examined) -> None:
    for difference in differences(stores, examined):
        row, reason = _SAID[difference.what]
        examined.found(f"{row} {difference.id}", reason.format(reader=difference.reader))


def differences(stores: Stores, examined: Examined) -> Iterator[Difference]:
    """Every batch that had its effect other than once, as far as the outboxes still have their batches."""
    # The sources are read first: whatever was acknowledged by then has been processed by the time the reader is read.
    with stores.snapshots(*POSTGRES) as sources:
        since = max(_now(source) for source in sources) - timedelta(
            seconds=ServiceSettings().acked_batches_kept_seconds * _WINDOW
        )
        for reader in (*POSTGRES, *MONGO):
            with _processed(stores, reader, since) as processed:
                for chunk in chunks(_compare(sources, reader, processed, examined), _LOOK_UPS):
                    suspects = [each.id for each in chunk if each.what == "sent by nobody"]
                    unknown = set(sent_by_nobody(stores, reader, suspects))
                    yield from (each for each in chunk if each.what != "sent by nobody" or each.id in unknown)


def _compare(
    sources: Sequence[Connection], reader: str, processed: Iterator[Row], examined: Examined
) -> Iterator[Difference]:
    """What was processed but not sent may be a part of a batch, or have been sent meanwhile."""
    sent = merge(*(stream(source, _SENT, reader=reader) for source in sources), key=itemgetter("key"))
    for id, (batches, receipts) in side_by_side(sent, processed):
        examined.rows += len(batches) + len(receipts)
        if not batches:
            if receipts[0]["recent"]:
                yield Difference(reader, id, "sent by nobody")
        elif len(batches) > 1:
            yield Difference(reader, id, "sent twice")
        elif batches[0]["arrived"] and not (receipts and receipts[0]["state"] == "DONE"):
            yield Difference(reader, id, "not processed")


_SENT = """
    SELECT o.id AS key, o.acked_at IS NOT NULL AS arrived FROM outbox_events AS o
     WHERE o.destination = %(reader)s ORDER BY o.id
"""
_PROCESSED = """
    SELECT p.event_id AS key, p.state, p.processed_at > %(since)s AS recent FROM processed_events AS p
     WHERE p.consumer = %(reader)s ORDER BY p.event_id
"""


def _now(connection: Connection) -> datetime:
    row = connection.execute("SELECT brokage_now() AS now").fetchone()
    assert row is not None
    now: datetime = row["now"]
    return now


@contextmanager
def _processed(stores: Stores, reader: str, since: datetime) -> Iterator[Iterator[Row]]:
    if reader in POSTGRES:
        with stores.snapshot(reader) as connection:
            yield stream(connection, _PROCESSED, reader=reader, since=since)
    else:
        database = stores.documents(reader)
        with database.reachable():
            yield (
                {"key": row["_id"], "state": row["state"], "recent": row["processed_at"] > since}
                for row in database["processed_events"].find({"consumer": reader}).sort("_id", 1)
            )


def sent_by_nobody(stores: Stores, reader: str, ids: Sequence[str]) -> list[str]:
    """Which of `ids` are neither batches for `reader`, nor events in one (of a batch that it took in parts)."""
    unknown = set(ids)
    for statement in (_BATCHES, _EVENTS):
        for service in POSTGRES:
            if not unknown:
                return []
            with stores.snapshot(service) as connection:
                rows = connection.execute(statement, {"reader": reader, "ids": list(unknown)})
                unknown -= {row["id"] for row in rows}
    return sorted(unknown)


_BATCHES = "SELECT id FROM outbox_events WHERE destination = %(reader)s AND id = ANY(%(ids)s::uuid[])"
_EVENTS = """
    SELECT message ->> 'event_id' AS id FROM outbox_events, jsonb_array_elements(payload::jsonb) AS message
     WHERE destination = %(reader)s AND message ->> 'event_id' = ANY(%(ids)s)
"""


def _said_once(stores: Stores, examined: Examined) -> None:
    """Who acts upon a message twice says twice what follows from it, even where the second effect changes nothing: one message
    causes one answer of each type about each thing. A command that is sent again is of a later version."""
    for service in POSTGRES:
        with stores.snapshot(service) as connection:
            for row in connection.execute(_SAID_TWICE):
                examined.found(
                    f"message {row['causation_id']}",
                    f"{service} answered it {row['times']} times: {row['type']} of {row['aggregate_id']}"
                    f" to {row['destination']}",
                )


# Read as text: only these few fields are looked at, and as `jsonb` all of them would be taken apart first.
_SAID_TWICE = """
    SELECT o.destination, message.causation_id, message.type, message.aggregate_id, count(*) AS times
      FROM outbox_events AS o
     CROSS JOIN LATERAL json_to_recordset(o.payload)
           AS message (causation_id text, type text, aggregate_id text, aggregate_version text)
     WHERE message.causation_id IS NOT NULL
     GROUP BY o.destination, message.causation_id, message.type, message.aggregate_id, message.aggregate_version
    HAVING count(*) > 1 ORDER BY 2, 3, 4, 1 LIMIT 10000
"""


# -- what does not arrive ------------------------------------------------------------------------------------------------


def _stuck_lanes(stores: Stores, source: str, keys: Sequence[str] | None = None) -> Iterator[Suspect]:
    """Lanes whose first batch is late. A lane that moves has another first batch when it is looked at again."""
    with stores.snapshot(source) as connection:
        rows = connection.execute(_LANE_HEADS, {"late": stores.settings.delivery_seconds}).fetchall()
    for row in rows:
        lane = f"{row['destination']}/{row['lane']}"
        if keys is None or lane in keys:
            reason = f"from {source} to {lane}, {row['status']} since {row['created_at']:%Y-%m-%d %H:%M:%S}"
            more = f", {row['waiting'] - 1} more behind it" if row["waiting"] > 1 else ""
            yield Suspect(lane, f"batch {row['id']}", reason + more, row["id"])


_LANE_HEADS = """
    SELECT * FROM (
        SELECT DISTINCT ON (destination, lane) id, destination, lane, status, created_at,
               count(*) OVER (PARTITION BY destination, lane) AS waiting
          FROM outbox_events WHERE acked_at IS NULL ORDER BY destination, lane, seq) AS heads
     WHERE created_at < brokage_now() - make_interval(secs => %(late)s)
"""


# -- what waits for a person ---------------------------------------------------------------------------------------------


def _parked(stores: Stores, examined: Examined) -> None:
    """Parked batches, until everything that became a dead letter has been put back."""
    for source in POSTGRES:
        with stores.snapshot(source) as connection:
            for batch in stream(connection, _PARKED):
                letters = _letters(stores, batch["destination"], batch["event_ids"], batch["aggregate_ids"])
                if not letters:
                    examined.found(f"batch {batch['key']}", "it is parked, but no dead letter says why")
                elif any(letter["resolved_at"] is None for letter in letters):
                    examined.found(f"batch {batch['key']}", f"from {source} is parked at {batch['destination']}")


_PARKED = """
    SELECT o.id AS key, o.destination, array_agg(message ->> 'event_id') AS event_ids,
           array_agg(DISTINCT message ->> 'aggregate_id') AS aggregate_ids
      FROM outbox_events AS o CROSS JOIN LATERAL jsonb_array_elements(o.payload::jsonb) AS message
     WHERE o.status = 'PARKED' GROUP BY o.id ORDER BY o.id
"""


def _letters(stores: Stores, reader: str, event_ids: Sequence[str], aggregate_ids: Sequence[str]) -> list[Any]:
    """Dead letters of these events, or of others of their aggregates: a repeat of a batch is parked for those as well."""
    if reader in MONGO:
        about = [{"event_id": {"$in": list(event_ids)}}, {"aggregate_id": {"$in": list(aggregate_ids)}}]
        database = stores.documents(reader)
        with database.reachable():
            return list(database["dead_letters"].find({"consumer": reader, "$or": about}, {"resolved_at": 1}))
    with stores.snapshot(reader) as connection:
        return connection.execute(
            _LETTERS, {"reader": reader, "event_ids": list(event_ids), "aggregate_ids": list(aggregate_ids)}
        ).fetchall()


_LETTERS = """
    SELECT resolved_at FROM dead_letters
     WHERE consumer = %(reader)s AND (event_id = ANY(%(event_ids)s::uuid[]) OR aggregate_id = ANY(%(aggregate_ids)s))
"""


def _dead_letters(stores: Stores, examined: Examined) -> None:
    for reader in POSTGRES:
        with stores.snapshot(reader) as connection:
            for letter in stream(connection, _OPEN_LETTERS):
                _open_letter(reader, letter, examined)
    for reader in MONGO:
        database = stores.documents(reader)
        with database.reachable():
            for letter in database["dead_letters"].find({"resolved_at": None}).sort("_id", 1):
                _open_letter(reader, letter, examined)


_OPEN_LETTERS = """
    SELECT id AS key, event_id, event_type, aggregate_type, aggregate_id, status, reason FROM dead_letters
     WHERE resolved_at IS NULL ORDER BY position
"""


def _open_letter(reader: str, letter: Row, examined: Examined) -> None:
    about = f"{letter['event_type']} of {letter['aggregate_type']} {letter['aggregate_id']}"
    examined.found(
        f"dead letter {letter['event_id']}", f"{about} is {letter['status']} at {reader}: {letter['reason']}"
    )


CHECKS = (Check(8, "every batch arrived, and had its effect exactly once at its reader", _arrived),)
