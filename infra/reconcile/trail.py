"""Invariant 9: the audit chain verifies, every event is in it once, and every customer was told once of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from auditor import documents
from auditor import service as auditing
from auditor.keeping import Keeping
from auditor.records import is_change
from auditor.settings import Settings
from infra.reconcile import telling
from infra.reconcile.check import Check, Examined
from infra.reconcile.notes import Notes
from infra.reconcile.stores import POSTGRES, Stores
from infra.reconcile.streams import stream
from shared.contracts import UnknownContract, decode_messages
from shared.contracts.message import Message
from shared.mongo import Document

_BATCHES_AT_ONCE = 50


def _told(stores: Stores, examined: Examined) -> None:
    with telling.no_notes() as notes:
        _chain(stores, notes, examined)
        _records(stores, notes, examined)
        telling.check(stores, notes, examined)


def _chain(stores: Stores, notes: Notes, examined: Examined) -> None:
    """The one pass over the trail: its chain is recomputed, and its records are noted for all that is asked of them later."""

    def misshapen(record: Document) -> None:
        examined.found(f"audit record {record.get('seq')}", "it is not made as the auditor makes its records")

    database = stores.documents("auditor")
    auditing.record_operator_read(database, "reconcile")
    live = notes.of_trail(documents.stream_logs(database), misshapen)
    verification = Keeping.open(database, Settings()).verify(live)
    examined.rows += verification.records
    if verification.first_bad is not None:
        bad = verification.first_bad
        examined.found(f"audit record {bad.seq}", f"the chain is broken here: {bad.reason}")
    deque(live, maxlen=0)  # behind a broken place the chain proves nothing, but the events are there


# -- what the auditor was sent -------------------------------------------------------------------------------------------


class _Named(msgspec.Struct, frozen=True):
    """As much of a message as names its event."""

    event_id: str


_named = msgspec.json.Decoder(list[_Named])


def _records(stores: Stores, notes: Notes, examined: Examined) -> None:
    """The events that the auditor has acknowledged, as far as their batches are still kept. Those of parked batches wait for a
    person, which invariant 8 says. A second record of an event cannot be: its id is the record's key."""
    for source in POSTGRES:
        with stores.snapshot(source) as connection:
            for row in stream(connection, _ACKED, page=_BATCHES_AT_ONCE):
                event_ids = _event_ids(row["payload"])
                examined.rows += len(event_ids)
                missing = telling.without_record(stores, notes, event_ids)
                for message in _changes(row["payload"]) if missing else ():
                    if message.event_id in missing:
                        examined.found(f"event {message.event_id}", f"no audit record of {_about(message)}")


def _event_ids(payload: str) -> list[str]:
    try:
        return [named.event_id for named in _named.decode(payload)]
    except msgspec.ValidationError:
        return []  # as below


def _changes(payload: str) -> Iterator[Message[Any]]:
    """Those events of a batch that are to be recorded."""
    try:
        yield from filter(is_change, decode_messages(payload))
    except (UnknownContract, msgspec.ValidationError):
        return  # of a release before or after this one; it was understood by whom it was for


def _about(message: Message[Any]) -> str:
    return f"{message.type} of {message.aggregate_type} {message.aggregate_id}"


_ACKED = """
    SELECT o.id AS key, o.payload::text AS payload FROM outbox_events AS o
     WHERE o.status = 'ACKED' AND o.destination = 'auditor' ORDER BY o.id
"""

CHECKS = (Check(9, "the audit chain verifies; one record per event, one notification per customer", _told),)
