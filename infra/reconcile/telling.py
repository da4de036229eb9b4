"""Invariant 9 from the other end: not what the auditor and the notifier were sent, but what happened. Each thing that the
services hold is in the trail once, and of each record of the trail its customer was told once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, LiteralString

from auditor import documents
from auditor.settings import Settings as AuditorSettings
from infra.reconcile.check import Examined
from infra.reconcile.rest import OnItsWay, Suspect, at_rest
from infra.reconcile.stores import POSTGRES, Stores
from infra.reconcile.streams import chunks, stream
from notifier.documents import NOTIFICATIONS
from notifier.settings import Settings as NotifierSettings
from notifier.templates import TEMPLATES
from shared.clock import utc_now

_AT_ONCE = 500
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


def check(stores: Stores, examined: Examined) -> None:
    _until_at_rest(stores, examined, "auditor", partial(_unrecorded_steps, stores))
    for fact in FACTS:
        _until_at_rest(stores, examined, "auditor", partial(_unrecorded, stores, fact))
    _until_at_rest(stores, examined, "notifier", partial(untold, stores))


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


def _unrecorded_steps(stores: Stores, keys: Sequence[str] | None, examined: Examined | None) -> Iterator[Suspect]:
    """Steps of orders, each of which knows the event that said so."""
    logs = stores.documents("auditor")[documents.LOGS]
    with stores.snapshot("order_service") as connection:
        for chunk in chunks(
            stream(connection, _STEPS, "h.event_id = ANY(%(keys)s::uuid[])", keys, since=_kept_since()), _AT_ONCE
        ):
            if examined is not None:
                examined.rows += len(chunk)
            with stores.documents("auditor").reachable():
                known = {row["_id"] for row in logs.find({"_id": {"$in": [row["key"] for row in chunk]}}, {"_id": 1})}
            for row in chunk:
                if row["key"] not in known:
                    about = f"no audit record of order {row['order_id']} becoming {row['status']}"
                    yield Suspect(row["key"], f"event {row['key']}", about, "")


_STEPS = """
    SELECT h.event_id AS key, h.order_id, h.status FROM all_order_history AS h
     WHERE h.event_id IS NOT NULL AND h.created_at > %(since)s /*only*/ ORDER BY h.event_id
"""


def _unrecorded(stores: Stores, fact: Fact, keys: Sequence[str] | None, examined: Examined | None) -> Iterator[Suspect]:
    logs = stores.documents("auditor")[documents.LOGS]
    with stores.snapshot(fact.service) as connection:
        for chunk in chunks(stream(connection, fact.statement, fact.only, keys, since=_kept_since()), _AT_ONCE):
            if examined is not None:
                examined.rows += len(chunk)
            query = {
                "entity_type": fact.entity_type,
                "entity_id": {"$in": [row["key"] for row in chunk]},
                "metadata.event_type": {"$in": list(fact.events)},
            }
            with stores.documents("auditor").reachable():
                times = Counter(row["entity_id"] for row in logs.find(query, {"entity_id": 1}))
            for row in chunk:
                found = times[row["key"]]
                if found != 1:
                    about = f"{found} audit records of {' or '.join(fact.events)}"
                    yield Suspect(row["key"], f"{fact.entity_type} {row['key']}", about, str(found))


# -- the trail, and what customers were told -----------------------------------------------------------------------------


NEVER = "0"
"""The evidence against an event that its customer was not told of at all."""


def untold(stores: Stores, keys: Sequence[str] | None = None, examined: Examined | None = None) -> Iterator[Suspect]:
    """Events of which their customer was not told, or more than once; the key is the event's id."""
    kept = timedelta(seconds=NotifierSettings().notifications_kept_seconds * _WINDOW)
    query: dict[str, Any] = {
        "metadata.event_type": {"$in": [payload.__name__ for payload in TEMPLATES]},
        "metadata.customer_id": {"$ne": None},
        "timestamp": {"$gt": utc_now() - kept},
    }
    if keys is not None:
        query["_id"] = {"$in": list(keys)}
    for records in chunks(documents.stream_logs(stores.documents("auditor"), query), _AT_ONCE):
        if examined is not None:
            examined.rows += len(records)
        times = _notifications(stores, records)
        for record in records:
            customer_id = record["metadata"]["customer_id"]
            found = times[customer_id, record["_id"]]
            if found != 1:
                about = f"{record['metadata']['event_type']} of {record['entity_type']} {record['entity_id']}"
                reason = f"customer {customer_id} was told {found} times of {about}"
                yield Suspect(record["_id"], f"event {record['_id']}", reason, str(found))


def _notifications(stores: Stores, records: Sequence[dict[str, Any]]) -> Counter[tuple[int, str]]:
    """How often each customer was told of each of these events."""
    query = {
        "customer_id": {"$in": sorted({record["metadata"]["customer_id"] for record in records})},
        "event_id": {"$in": [record["_id"] for record in records]},
    }
    with stores.documents("notifier").reachable():
        rows = stores.documents("notifier")[NOTIFICATIONS].find(query, {"customer_id": 1, "event_id": 1})
        return Counter((row["customer_id"], row["event_id"]) for row in rows)


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
