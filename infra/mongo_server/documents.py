"""Rows of a collection and their index entries, always changed together, inside the caller's transaction."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import bson
from bson.errors import BSONError
from bson.objectid import ObjectId
from bson.regex import Regex

from infra.mongo_server.catalog import Collection, Entries, Index
from infra.mongo_server.errors import CommandError, bad_value
from infra.mongo_server.match import Predicate
from infra.mongo_server.paths import Doc
from infra.mongo_server.planner import Plan
from infra.mongo_server.protocol import DOCUMENT_SIZE_MAX
from infra.mongo_server.storage import WriteTransaction

_BACKFILL_BATCH = 1000
_ROWS_AT_ONCE = (128, 16, 1)
_DECODED_AT_ONCE = 64
_NO_IDS = (list, Regex)


def utc_now() -> datetime:
    """Naive UTC at millisecond precision, as bson decodes dates."""
    now = datetime.now(UTC).replace(tzinfo=None)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


@dataclass(slots=True)
class Examined:
    """What a read touched; `explain` reports it."""

    keys: int = 0
    documents: int = 0


class Row:
    """A stored document; decoded only where somebody looks into it."""

    __slots__ = ("_doc", "body", "rid")

    def __init__(self, rid: int, body: bytes) -> None:
        self.rid = rid
        self.body = body
        self._doc: Doc | None = None

    @property
    def doc(self) -> Doc:
        if self._doc is None:
            self._doc = bson.decode(self.body)
        return self._doc


@dataclass(slots=True)
class Prepared:
    """Documents ready to be stored: their bytes, and their entries for each index.

    Not the decoded documents: thousands of them kept at once cost as much as decoding them.
    """

    bodies: list[bytes]
    entries: list[Entries]


def prepare(raws: Sequence[bytes | Doc], collection: Collection | None) -> Prepared:
    """Check new documents, give an `_id` to those that have none, and compute their entries for the known indexes.

    Raises:
        CommandError: one of them cannot be stored.
    """
    prepared = Prepared([], [] if collection is None else [Entries() for _ in collection.indexes])
    for start in range(0, len(raws), _DECODED_AT_ONCE):
        docs, bodies = _checked(raws[start : start + _DECODED_AT_ONCE])
        prepared.bodies += bodies
        if collection is not None:
            for entries, more in zip(prepared.entries, collection.entries(docs), strict=True):
                entries.add(more, start)
    return prepared


def _checked(raws: Sequence[bytes | Doc]) -> tuple[list[Doc], list[bytes]]:
    """Documents with their `_id` in front, and their bytes."""
    docs, bodies = _decoded(raws)
    for position, doc in enumerate(docs):
        if next(iter(doc), None) != "_id":
            doc = {"_id": doc["_id"] if "_id" in doc else ObjectId(), **doc}
            docs[position], bodies[position] = doc, b""
        check_document(doc)
        bodies[position] = checked_body(doc, bodies[position])
    return docs, bodies


def _decoded(raws: Sequence[Any]) -> tuple[list[Doc], list[bytes]]:
    """The documents, and their bytes as they came or none."""
    if all(isinstance(raw, dict) for raw in raws):
        return list(raws), [b""] * len(raws)
    if not all(isinstance(raw, bytes) for raw in raws):
        raise CommandError(14, "a document to insert must be an object")
    try:
        docs = bson.decode_all(b"".join(raws))
    except BSONError as error:
        raise bad_value(f"invalid BSON: {error}") from error
    if len(docs) != len(raws):
        raise bad_value("invalid BSON: more than one document in the place of one")
    return docs, list(raws)


def check_document(doc: Doc) -> None:
    if isinstance(doc["_id"], _NO_IDS):
        raise bad_value(f"the '_id' value cannot be of type {type(doc['_id']).__name__}")
    if "$" in "".join(doc):
        for name in doc:
            if name.startswith("$"):
                raise CommandError(52, f"the field {name!r} must not start with '$'")


def checked_body(doc: Doc, body: bytes = b"") -> bytes:
    body = body or bson.encode(doc)
    if len(body) > DOCUMENT_SIZE_MAX:
        raise CommandError(10334, f"the document has {len(body)} bytes, more than {DOCUMENT_SIZE_MAX}")
    return body


def insert(transaction: WriteTransaction, collection: Collection, documents: Prepared) -> None:
    """Store all or raise `sqlite3.IntegrityError` half way (the caller holds a savepoint): the fast path."""
    connection = transaction.connection
    first = _next_rid(connection, collection)
    _insert_rows(connection, collection.table, range(first, first + len(documents.bodies)), documents.bodies)
    for index, entries in zip(collection.indexes, documents.entries, strict=True):
        _insert_rows(connection, index.table, entries.keys, [first + owner for owner in entries.owners])
        if not index.multikey and entries.fan_out:
            transaction.mark_multikey(collection, index)


def _insert_rows(connection: sqlite3.Connection, table: str, left: Sequence[Any], right: Sequence[Any]) -> None:
    """Rows of two columns. Many go in one statement: each costs its own way into SQLite and back, and twice the turn of
    this thread among the others. A refused one leaves the rows before it (OR FAIL), to be undone by the caller's savepoint: else
    SQLite keeps every page a second time, for the statement."""
    values: list[Any] = [None] * (2 * len(left))
    values[::2], values[1::2] = left, right
    start = 0
    for rows in _ROWS_AT_ONCE:
        statement = f"INSERT OR FAIL INTO {table} VALUES " + ", ".join(["(?, ?)"] * rows)
        while len(values) - start >= 2 * rows:
            connection.execute(statement, values[start : start + 2 * rows])
            start += 2 * rows


def insert_one(transaction: WriteTransaction, collection: Collection, raw: bytes | Doc) -> None:
    """Store one document or refuse it as a duplicate, leaving nothing."""
    document = prepare([raw], collection)
    keys = [entries.keys for entries in document.entries]
    _refuse_duplicates(transaction, collection, document.bodies[0], keys, own_rid=None)
    insert(transaction, collection, document)


def _next_rid(connection: sqlite3.Connection, collection: Collection) -> int:
    (last,) = connection.execute(f"SELECT max(rid) FROM {collection.table}").fetchone()
    return int(last or 0) + 1


def _refuse_duplicates(
    transaction: WriteTransaction, collection: Collection, body: bytes, keys: list[list[bytes]], own_rid: int | None
) -> None:
    for index, index_keys in zip(collection.indexes, keys, strict=True):
        if not index.unique:
            continue
        for key in index_keys:
            found = transaction.connection.execute(f"SELECT rid FROM {index.table} WHERE key = ?", (key,)).fetchone()
            if found is None or found[0] == own_rid or _removed_as_expired(transaction, collection, found[0]):
                continue
            raise duplicate(collection, index, bson.decode(body))


def _removed_as_expired(transaction: WriteTransaction, collection: Collection, rid: int) -> bool:
    """A document that TTL already hides must not block its successor until the next sweep."""
    if not collection.expiring:
        return False
    row = load(transaction.connection, collection, rid)
    if not collection.hides(row.doc, utc_now()):
        return False
    delete(transaction, collection, row)
    return True


def duplicate(collection: Collection, index: Index, doc: Doc) -> CommandError:
    described = index.describe_key(doc)
    message = f"E11000 duplicate key error collection: {collection.namespace} index: {index.name} dup key: "
    return CommandError(11000, message + str(described["keyValue"]), **described)


def replace(transaction: WriteTransaction, collection: Collection, row: Row, new: Doc) -> None:
    """Give a row a new content; only the entries that differ are written."""
    check_document(new)
    body = checked_body(new)
    before, after = collection.keys(row.doc), collection.keys(new)
    if before != after:
        _refuse_duplicates(transaction, collection, body, after, own_rid=row.rid)
    connection = transaction.connection
    connection.execute(f"UPDATE {collection.table} SET body = ? WHERE rid = ?", (body, row.rid))
    for index, old_keys, new_keys in zip(collection.indexes, before, after, strict=True):
        if old_keys == new_keys:
            continue
        gone, come = set(old_keys) - set(new_keys), set(new_keys) - set(old_keys)
        connection.executemany(f"DELETE FROM {index.table} WHERE key = ? AND rid = ?", [(key, row.rid) for key in gone])
        connection.executemany(f"INSERT INTO {index.table} VALUES (?, ?)", [(key, row.rid) for key in come])
        if len(new_keys) > 1 and not index.multikey:
            transaction.mark_multikey(collection, index)


def delete(transaction: WriteTransaction, collection: Collection, row: Row) -> None:
    connection = transaction.connection
    connection.execute(f"DELETE FROM {collection.table} WHERE rid = ?", (row.rid,))
    for index in collection.indexes:
        keys = [(key, row.rid) for key in index.entries(row.doc)]
        connection.executemany(f"DELETE FROM {index.table} WHERE key = ? AND rid = ?", keys)


def scan(
    connection: sqlite3.Connection, collection: Collection, plan: Plan, matches: Predicate | None, examined: Examined
) -> Iterator[Row]:
    """The matching (None: all), unexpired rows that a plan reaches, each once, lazily."""
    now = utc_now() if collection.expiring else None
    seen: set[int] | None = set() if plan.index is not None and plan.index.multikey else None
    for rid, body in _candidates(connection, collection, plan):
        examined.keys += plan.index is not None
        if seen is not None:
            if rid in seen:
                continue
            seen.add(rid)
        examined.documents += 1
        row = Row(rid, body)
        if (matches is None or matches(row.doc)) and (now is None or not collection.hides(row.doc, now)):
            yield row


def _candidates(connection: sqlite3.Connection, collection: Collection, plan: Plan) -> Iterator[tuple[int, bytes]]:
    order = "DESC" if plan.backward else "ASC"
    if plan.index is None:
        yield from connection.execute(f"SELECT rid, body FROM {collection.table} ORDER BY rid {order}")
        return
    # CROSS JOIN fixes the order of the loops: the stretch of the index outside, the row by its id inside.
    statement = (
        f"SELECT d.rid, d.body FROM {plan.index.table} i CROSS JOIN {collection.table} d ON d.rid = i.rid"
        f" WHERE i.key >= ? AND i.key < ? ORDER BY i.key {order}"
    )
    for low, high in plan.ranges:
        yield from connection.execute(statement, (low, high))


def fetch(connection: sqlite3.Connection, collection: Collection, rid: int) -> bytes:
    body: bytes = connection.execute(f"SELECT body FROM {collection.table} WHERE rid = ?", (rid,)).fetchone()[0]
    return body


def load(connection: sqlite3.Connection, collection: Collection, rid: int) -> Row:
    return Row(rid, fetch(connection, collection, rid))


def backfill(transaction: WriteTransaction, collection: Collection, index: Index) -> None:
    """Fill a new index from the rows there are; a duplicate refuses the index."""
    connection = transaction.connection
    multikey = False
    last = 0
    while True:
        rows: list[tuple[int, Any]] = connection.execute(
            f"SELECT rid, body FROM {collection.table} WHERE rid > ? ORDER BY rid LIMIT {_BACKFILL_BATCH}", (last,)
        ).fetchall()
        if not rows:
            break
        last = rows[-1][0]
        for rid, body in rows:
            doc = bson.decode(body)
            keys = set(index.entries(doc))
            multikey = multikey or len(keys) > 1
            try:
                connection.executemany(f"INSERT INTO {index.table} VALUES (?, ?)", [(key, rid) for key in keys])
            except sqlite3.IntegrityError as error:
                raise duplicate(collection, index, doc) from error
    if multikey:
        transaction.mark_multikey(collection, index)
