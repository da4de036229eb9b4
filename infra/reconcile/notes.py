"""What one pass over the documents left in memory of the proof: which events are in the trail, and who was told of which.

The stores of documents are read once, from one end to the other; whatever else is asked of them is asked here. The notes are in a
private file of SQLite that nobody else can open and that goes with its connection, so memory is bounded.

A note says what was there when the pass came by. What is missing here may have come since, so it is looked up in the store before
anybody is accused.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

import msgspec

from infra.reconcile.streams import chunks
from shared.mongo import Document

_AT_ONCE = 1_000
_CACHE_KIB = 65_536


class _About(msgspec.Struct, frozen=True):
    event_type: str
    customer_id: int | None


class _Record(msgspec.Struct, frozen=True):
    """What is noted of an audit record."""

    event_id: str
    timestamp: datetime
    entity_type: str
    entity_id: str
    metadata: _About


class Notes:
    """
    Args:
        facts: types of events that are counted by what they are about.
        told: types of events of which a customer is told.
        told_since: whether he was told of earlier ones is not known any more.
    """

    def __init__(self, facts: Collection[str], told: Collection[str], told_since: datetime) -> None:
        self._facts = frozenset(facts)
        self._told = frozenset(told)
        self._told_since = told_since
        # Without a name it is a temporary file. One thread at a time uses it, not always the same.
        self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for statement in _SCHEMA:
            self._file.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    # -- taking them ---------------------------------------------------------------------------------------------------

    def of_trail(self, records: Iterable[Document], misshapen: Callable[[Document], None]) -> Iterator[Document]:
        """The same records, noted on the way; `misshapen` is called with those that this service cannot have written."""
        for chunk in chunks(records, _AT_ONCE):
            self._note(_shaped(chunk, misshapen))
            yield from chunk

    def _note(self, records: Sequence[_Record]) -> None:
        abouts = [(record, record.metadata.event_type) for record in records]
        to_tell = [
            (
                record.event_id,
                record.metadata.customer_id
                if event_type in self._told and record.timestamp > self._told_since
                else None,
            )
            for record, event_type in abouts
        ]
        self._file.executemany("INSERT INTO records VALUES (?, ?)", to_tell)
        facts = [
            (record.entity_id, record.entity_type, event_type)
            for record, event_type in abouts
            if event_type in self._facts
        ]
        self._file.executemany("INSERT INTO facts VALUES (?, ?, ?)", facts)

    def of_notifications(self, notifications: Iterable[Document]) -> None:
        for chunk in chunks(notifications, _AT_ONCE):
            rows = [(notification["event_id"], notification["customer_id"]) for notification in chunk]
            self._file.executemany("INSERT INTO notifications VALUES (?, ?)", rows)

    # -- asking them ---------------------------------------------------------------------------------------------------

    def unrecorded(self, event_ids: Collection[str]) -> set[str]:
        """Which of these events the trail did not have."""
        rows = self._file.execute(_UNRECORDED, (json.dumps(list(event_ids)),))
        return {event_id for (event_id,) in rows}

    def times(self, entity_type: str, events: Collection[str], entity_ids: Sequence[str]) -> Counter[str]:
        """How many records of these types there were of each of these things."""
        rows = self._file.execute(_TIMES, (json.dumps(entity_ids), entity_type, json.dumps(list(events))))
        return Counter(dict(rows.fetchall()))

    def to_tell(self) -> int:
        """How many events there were of which a customer had to be told."""
        (number,) = self._file.execute("SELECT count(*) FROM records WHERE customer_id IS NOT NULL").fetchone()
        return int(number)

    def not_told_once(self) -> Iterator[str]:
        """Events of which their customer was told never or more than once."""
        for (event_id,) in self._file.execute(_NOT_TOLD_ONCE):
            yield event_id


def _shaped(records: Sequence[Document], misshapen: Callable[[Document], None]) -> list[_Record]:
    try:
        return msgspec.convert(records, list[_Record])
    except msgspec.ValidationError:
        if len(records) > 1:
            return [shaped for record in records for shaped in _shaped([record], misshapen)]
        misshapen(records[0])
        return []


# The store has unique indexes on what is unique; here a second one is only counted.
_SCHEMA = (
    f"PRAGMA cache_size = -{_CACHE_KIB}",
    "PRAGMA journal_mode = OFF",
    "CREATE TABLE records (event_id TEXT PRIMARY KEY, customer_id INTEGER) WITHOUT ROWID",
    "CREATE TABLE facts (entity_id TEXT, entity_type TEXT, event_type TEXT)",
    "CREATE INDEX facts_by_entity ON facts (entity_id, entity_type, event_type)",
    "CREATE TABLE notifications (event_id TEXT, customer_id INTEGER)",
    "CREATE INDEX notifications_by_event ON notifications (event_id, customer_id)",
    "BEGIN",
)
_UNRECORDED = "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT event_id FROM records)"
_TIMES = """
    SELECT entity_id, count(*) FROM facts
     WHERE entity_id IN (SELECT value FROM json_each(?)) AND entity_type = ?
       AND event_type IN (SELECT value FROM json_each(?)) GROUP BY entity_id
"""
_NOT_TOLD_ONCE = """
    SELECT r.event_id FROM records AS r
     WHERE r.customer_id IS NOT NULL
       AND (SELECT count(*) FROM notifications AS n WHERE n.event_id = r.event_id AND n.customer_id = r.customer_id) <> 1
     ORDER BY r.event_id
"""
