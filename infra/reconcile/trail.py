"""Invariant 9: the audit chain verifies, every event is in it once, and every customer was told once of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from auditor import service as auditing
from auditor.documents import LOGS
from auditor.keeping import Keeping
from auditor.records import is_change
from auditor.settings import Settings
from infra.reconcile import telling
from infra.reconcile.check import Check, Examined
from infra.reconcile.stores import POSTGRES, Stores
from infra.reconcile.streams import chunks, stream
from shared.contracts import UnknownContract, decode_messages
from shared.contracts.message import Message

_AT_ONCE = 500


def _told(stores: Stores, examined: Examined) -> None:
    _chain(stores, examined)
    _records(stores, examined)
    telling.check(stores, examined)


def _chain(stores: Stores, examined: Examined) -> None:
    database = stores.documents("auditor")
    auditing.record_operator_read(database, "reconcile")
    verification = Keeping.open(database, Settings()).verify()
    examined.rows += verification.records
    if verification.first_bad is not None:
        bad = verification.first_bad
        examined.found(f"audit record {bad.seq}", f"the chain is broken here: {bad.reason}")


def _records(stores: Stores, examined: Examined) -> None:
    """A second record of an event cannot be: its id is the record's key."""
    logs = stores.documents("auditor")[LOGS]
    changes = (message for message in _arrived(stores, "auditor") if is_change(message))
    for chunk in chunks(changes, _AT_ONCE):
        examined.rows += len(chunk)
        with stores.documents("auditor").reachable():
            known = {row["_id"] for row in logs.find({"_id": {"$in": [m.event_id for m in chunk]}}, {"_id": 1})}
        for message in chunk:
            if message.event_id not in known:
                examined.found(f"event {message.event_id}", f"no audit record of {_about(message)}")


def _about(message: Message[Any]) -> str:
    return f"{message.type} of {message.aggregate_type} {message.aggregate_id}"


def _arrived(stores: Stores, reader: str) -> Iterator[Message[Any]]:
    """The events that `reader` has acknowledged, as far as their batches are still kept. Those of parked batches wait for a
    person, which invariant 8 says."""
    for source in POSTGRES:
        with stores.snapshot(source) as connection:
            for row in stream(connection, _ACKED, reader=reader):
                try:
                    yield from decode_messages(row["payload"])
                except (UnknownContract, msgspec.ValidationError):
                    continue  # of a release before or after this one; it was understood by whom it was for


_ACKED = """
    SELECT o.id AS key, o.payload::text AS payload FROM outbox_events AS o
     WHERE o.status = 'ACKED' AND o.destination = %(reader)s ORDER BY o.id
"""

CHECKS = (Check(9, "the audit chain verifies; one record per event, one notification per customer", _told),)
