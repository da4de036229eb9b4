"""Invariant 9 from the other end: not what the auditor and the notifier were sent, but what happened. Each thing that the
services hold is in the trail once, and of each record of the trail its customer was told once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, LiteralString

from auditor import documents
from auditor.settings import Settings as AuditorSettings
from infra.reconcile.check import Examined
from infra.reconcile.notes import Notes
from infra.reconcile.rest import OnItsWay, Suspect, at_rest
from infra.reconcile.stores import POSTGRES, Stores
from infra.reconcile.streams import chunks, stream
from notifier.documents import NOTIFICATIONS
from notifier.settings import Settings as NotifierSettings
from notifier.templates import TEMPLATES
from shared.clock import utc_now

_AT_ONCE = 500
_NOTIFICATIONS_AT_ONCE = 5_000
_WINDOW = 0.9
"""The part of the time for which records and notifications are kept in which we expect every one of them to be there still."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something a service holds, and the event that must have said so, exactly once and about the same thing.

    `statement` yields its `key` in order, and ends in `/*only*/` and `ORDER BY`; `only` narrows it to `%(keys)s`.
    """

    service: str
    entity_type: str
    events: tuple[str, ...]
    statement: LiteralString
    only: LiteralString


FACTS = (
    Fact(
        "asset_service",
        "transfer",
        ("FundsDeposited", "FundsWithdrawn"),
        "SELECT t.id AS key FROM transfers AS t WHERE t.created_at > %(since)s /*only*/ ORDER BY t.id",
        "t.id = ANY(%(keys)s::uuid[])",
    ),
    Fact(
        "asset_service",
        "trade",
        ("TradeSettled", "TradeSettlementFailed"),
        "SELECT s.trade_id AS key FROM settlements AS s WHERE s.created_at > %(since)s /*only*/ ORDER BY s.trade_id",
        "s.trade_id = ANY(%(keys)s::uuid[])",
    ),
    Fact(
        "asset_service",
        "order",
        ("AssetReserved", "AssetReservationFailed"),
        "SELECT r.holder_id AS key FROM asset_reservations AS r"
        " WHERE r.created_at > %(since)s AND r.holder_type = 'ORDER' AND r.leg = 'ORDER'"
        " AND r.refusal IS DISTINCT FROM 'RELEASED_BEFORE' /*only*/ ORDER BY r.holder_id",
        "r.holder_id = ANY(%(keys)s::uuid[])",
    ),
    Fact(
        "asset_service",
        "order",
        ("AssetReleased",),
        "SELECT r.holder_id AS key FROM asset_reservations AS r"
        " WHERE r.created_at > %(since)s AND r.holder_type = 'ORDER' AND r.leg = 'ORDER'"
        " AND r.release_reason IS NOT NULL /*only*/ ORDER BY r.holder_id",
        "r.holder_id = ANY(%(keys)s::uuid[])",
    ),
    Fact(
        "customer_service",
        "customer",
        ("CustomerRegistered",),
        "SELECT c.id::text AS key FROM customers AS c WHERE c.created_at > %(since)s /*only*/ ORDER BY c.id",
        "c.id = ANY(%(keys)s::bigint[])",
    ),
)


def no_notes() -> Notes:
    """To be filled by a pass over the trail."""
    kept = timedelta(seconds=NotifierSettings().notifications_kept_seconds * _WINDOW)
    return Notes(
        facts=[event for fact in FACTS for event in fact.events],
        told=[payload.__name__ for payload in TEMPLATES],
        told_since=utc_now() - kept,
    )


@contextmanager
def noted(stores: Stores) -> Iterator[Notes]:
    """Notes of a pass over the trail that looks at nothing else."""
    with no_notes() as notes:
        deque(notes.of_trail(documents.stream_logs(stores.documents("auditor")), lambda record: None), maxlen=0)
        yield notes


def check(stores: Stores, notes: Notes, examined: Examined) -> None:
    """
    Args:
        notes: of the whole trail.
    """
    _until_at_rest(stores, examined, "auditor", partial(_unrecorded_steps, stores, notes))
    for fact in FACTS:
        _until_at_rest(stores, examined, "auditor", partial(_unrecorded, stores, notes, fact))
    _until_at_rest(stores, examined, "notifier", partial(_untold, stores, notes))


Suspects = Callable[[Sequence[str] | None, Examined | None], Iterable[Suspect]]


def _until_at_rest(stores: Stores, examined: Examined, reader: str, suspects: Suspects) -> None:
    at_rest(
        suspects(None, examined),
        examined,
        stores.settings,
        recheck=lambda keys: suspects(keys, None),
        on_its_way=_under_way(stores, reader),
    )


# -- what happened, and the trail ----------------------------------------------------------------------------------------


def _kept_since() -> datetime:
    """Records of what happened before may be in the archive."""
    return utc_now() - timedelta(seconds=AuditorSettings().audit_kept_seconds * _WINDOW)


def without_record(stores: Stores, notes: Notes | None, event_ids: Collection[str]) -> set[str]:
    """Which of these events are not in the trail. Of those that are in `notes` the store is not asked."""
    missing = set(event_ids) if notes is None else notes.unrecorded(event_ids)
    if not missing:
        return missing
    database = stores.documents("auditor")
    with database.reachable():
        return missing - documents.known_events(database, missing)


def _unrecorded_steps(
    stores: Stores, notes: Notes, keys: Sequence[str] | None, examined: Examined | None
) -> Iterator[Suspect]:
    """Steps of orders, each of which knows the event that said so."""
    with stores.snapshot("order_service") as connection:
        for chunk in chunks(
            stream(connection, _STEPS, "h.event_id = ANY(%(keys)s::uuid[])", keys, since=_kept_since()), _AT_ONCE
        ):
            if examined is not None:
                examined.rows += len(chunk)
            missing = without_record(stores, notes if keys is None else None, [row["key"] for row in chunk])
            for row in chunk:
                if row["key"] in missing:
                    about = f"no audit record of order {row['order_id']} becoming {row['status']}"
                    yield Suspect(row["key"], f"event {row['key']}", about, "")


_STEPS = """
    SELECT h.event_id AS key, h.order_id, h.status FROM all_order_history AS h
     WHERE h.event_id IS NOT NULL AND h.created_at > %(since)s /*only*/ ORDER BY h.event_id
"""


def _unrecorded(
    stores: Stores, notes: Notes, fact: Fact, keys: Sequence[str] | None, examined: Examined | None
) -> Iterator[Suspect]:
    with stores.snapshot(fact.service) as connection:
        for chunk in chunks(stream(connection, fact.statement, fact.only, keys, since=_kept_since()), _AT_ONCE):
            if examined is not None:
                examined.rows += len(chunk)
            times = _times(stores, notes if keys is None else None, fact, [row["key"] for row in chunk])
            for key, found in times.items():
                if found != 1:
                    about = f"{found} audit records of {' or '.join(fact.events)}"
                    yield Suspect(key, f"{fact.entity_type} {key}", about, str(found))


def _times(stores: Stores, notes: Notes | None, fact: Fact, entity_ids: Sequence[str]) -> dict[str, int]:
    """How many records there are of each of these. Of those that have one in `notes` the store is not asked."""
    known = Counter[str]() if notes is None else notes.times(fact.entity_type, fact.events, entity_ids)
    unsure = [entity_id for entity_id in entity_ids if known[entity_id] != 1]
    asked = _ask_times(stores, fact, unsure) if unsure else known
    return {entity_id: 1 if known[entity_id] == 1 else asked[entity_id] for entity_id in entity_ids}


def _ask_times(stores: Stores, fact: Fact, entity_ids: Sequence[str]) -> Counter[str]:
    query = {
        "entity_type": fact.entity_type,
        "entity_id": {"$in": list(entity_ids)},
        "metadata.event_type": {"$in": list(fact.events)},
    }
    database = stores.documents("auditor")
    with database.reachable():
        return Counter(row["entity_id"] for row in database[documents.LOGS].find(query, {"entity_id": 1}))


# -- the trail, and what customers were told -----------------------------------------------------------------------------


NEVER = "0"
"""The evidence against an event that its customer was not told of at all."""


def untold(stores: Stores) -> Iterator[Suspect]:
    """Events of which their customer was not told, or more than once; the key is the event's id."""
    with noted(stores) as notes:
        yield from _untold(stores, notes, None, None)


def _untold(stores: Stores, notes: Notes, keys: Iterable[str] | None, examined: Examined | None) -> Iterator[Suspect]:
    if keys is None:
        _note_notifications(stores, notes)
        keys = notes.not_told_once()
    if examined is not None:
        examined.rows += notes.to_tell()
    for chunk in chunks(keys, _AT_ONCE):
        records = list(documents.stream_logs(stores.documents("auditor"), {"_id": {"$in": chunk}}))
        times = _notifications(stores, records)
        for record in records:
            customer_id = record["metadata"]["customer_id"]
            found = times[customer_id, record["_id"]]
            if found != 1:
                about = f"{record['metadata']['event_type']} of {record['entity_type']} {record['entity_id']}"
                reason = f"customer {customer_id} was told {found} times of {about}"
                yield Suspect(record["_id"], f"event {record['_id']}", reason, str(found))


def _note_notifications(stores: Stores, notes: Notes) -> None:
    database = stores.documents("notifier")
    with database.reachable():
        found = database[NOTIFICATIONS].find({}, {"_id": 0, "customer_id": 1, "event_id": 1})
        notes.of_notifications(found.batch_size(_NOTIFICATIONS_AT_ONCE))


def _notifications(stores: Stores, records: Iterable[dict[str, Any]]) -> Counter[tuple[int, str]]:
    """How often each customer was told of each of these events. A question for each customer: their index leads with him."""
    events: dict[int, list[str]] = {}
    for record in records:
        events.setdefault(record["metadata"]["customer_id"], []).append(record["_id"])
    database = stores.documents("notifier")
    times = Counter[tuple[int, str]]()
    with database.reachable():
        for customer_id, event_ids in events.items():
            query = {"customer_id": customer_id, "event_id": {"$in": event_ids}}
            times.update((customer_id, row["event_id"]) for row in database[NOTIFICATIONS].find(query, {"event_id": 1}))
    return times


# -- what is still on its way --------------------------------------------------------------------------------------------


def _under_way(stores: Stores, reader: str) -> OnItsWay:
    """Of which of these events or things a message to `reader` is not done; one that is parked waits for a person, and
    invariant 8 says so."""

    def named(keys: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for service in POSTGRES:
            with stores.snapshot(service) as connection:
                rows = connection.execute(_UNDER_WAY, {"keys": list(keys), "reader": reader})
                found.update(row["id"] for row in rows)
        return found

    return named


_UNDER_WAY = """
    SELECT DISTINCT named.id
      FROM outbox_events AS o
     CROSS JOIN LATERAL jsonb_array_elements(o.payload::jsonb) AS message
     CROSS JOIN LATERAL (VALUES (message ->> 'event_id'), (message ->> 'aggregate_id')) AS named (id)
     WHERE (o.acked_at IS NULL OR o.status = 'PARKED') AND o.destination = %(reader)s AND named.id = ANY(%(keys)s)
"""
