"""insert, update, delete, findAndModify: one transaction per command, acknowledged after its commit."""

import sqlite3
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import bson
from bson.errors import BSONError

from infra.mongo_server.arguments import Arguments, check_fields
from infra.mongo_server.catalog import Collection
from infra.mongo_server.documents import Prepared, Row, delete, insert, insert_one, load, prepare, replace, utc_now
from infra.mongo_server.errors import CommandError, bad_value
from infra.mongo_server.match import compile_filter
from infra.mongo_server.paths import Doc
from infra.mongo_server.projection import compile_projection
from infra.mongo_server.protocol import WRITE_BATCH_MAX
from infra.mongo_server.reads import first, rows
from infra.mongo_server.sorting import parse_sort
from infra.mongo_server.storage import Storage, WriteTransaction
from infra.mongo_server.update import Update

_UPDATE = frozenset({"q", "u", "upsert", "multi"})


@contextmanager
def _savepoint(transaction: WriteTransaction) -> Iterator[None]:
    """All of one statement or nothing of it; the catalog follows."""
    catalog = transaction.catalog
    transaction.connection.execute("SAVEPOINT statement")
    try:
        yield
    except BaseException:
        transaction.connection.execute("ROLLBACK TO statement")
        transaction.catalog = catalog
        raise
    finally:
        transaction.connection.execute("RELEASE statement")


class Writes:
    """The commands that change documents."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def insert(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"documents", "ordered"}))
        raws = _bounded(arguments.statements("documents"))
        ordered = arguments.flag("ordered", True)
        # Entries are computed before the lock; a new index in between is rare and only costs doing it again.
        with self._storage.read() as snapshot:
            known = snapshot.catalog.find(arguments.database, arguments.target)
        prepared = _prepared(raws, known)
        with self._storage.write() as transaction:
            collection = transaction.collection(arguments.database, arguments.target)
            if known is None or [index.id for index in known.indexes] != [index.id for index in collection.indexes]:
                prepared = _prepared(raws, collection)
            return _insert_all(transaction, collection, raws, prepared, ordered)

    def update(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"updates", "ordered"}))
        statements = _bounded(arguments.statements("updates"))
        answer: dict[str, Any] = {"n": 0, "nModified": 0, "ok": 1.0}
        upserted: list[Doc] = []

        def run(transaction: WriteTransaction, position: int) -> None:
            statement = _decoded(statements[position])
            check_fields("updates", statement, _UPDATE)
            matched, modified, new_id = _update(transaction, arguments, statement)
            answer["n"] += matched
            answer["nModified"] += modified
            if new_id:
                upserted.append({"index": position, "_id": new_id[0]})

        self._run_each(len(statements), arguments.flag("ordered", True), run, answer)
        if upserted:
            answer["upserted"] = upserted
        return answer

    def delete(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"deletes", "ordered"}))
        statements = _bounded(arguments.statements("deletes"))
        answer: dict[str, Any] = {"n": 0, "ok": 1.0}

        def run(transaction: WriteTransaction, position: int) -> None:
            statement = _decoded(statements[position])
            check_fields("deletes", statement, frozenset({"q", "limit"}))
            if statement.get("limit") not in (0, 1):
                raise CommandError(9, "the limit of a delete must be 0 or 1")
            answer["n"] += _delete(transaction, arguments, statement)

        self._run_each(len(statements), arguments.flag("ordered", True), run, answer)
        return answer

    def _run_each(
        self, total: int, ordered: bool, run: Callable[[WriteTransaction, int], None], answer: dict[str, Any]
    ) -> None:
        """Every statement in its savepoint; refused ones become writeErrors, the first ends an ordered command."""
        errors: list[Doc] = []
        with self._storage.write() as transaction:
            for position in range(total):
                try:
                    with _savepoint(transaction):
                        run(transaction, position)
                except CommandError as error:
                    errors.append(error.write_error(position))
                    if ordered:
                        break
        if errors:
            answer["writeErrors"] = errors

    def find_and_modify(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"query", "sort", "remove", "update", "new", "upsert", "fields"}))
        remove, upsert, new = arguments.flag("remove"), arguments.flag("upsert"), arguments.flag("new")
        if remove == ("update" in arguments.body) or (remove and (upsert or new)):
            raise CommandError(9, "findAndModify takes either an update or remove=true (without new and upsert)")
        query, sort = arguments.document("query"), arguments.document("sort")
        compile_filter(query)
        parse_sort(sort)
        fields = arguments.document("fields")
        project = compile_projection(fields, computed=False) if fields else lambda doc: doc
        update = None if remove else Update(arguments.body["update"])
        with self._storage.write() as transaction:
            collection = transaction.catalog.find(arguments.database, arguments.target)
            row = None if collection is None else first(transaction.connection, collection, query, sort or None)
            last: Doc = {"n": int(row is not None)}
            value: Doc | None = None if row is None else row.doc
            if update is None:
                if row is not None and collection is not None:
                    delete(transaction, collection, row)
            else:
                last["updatedExisting"] = row is not None
                if row is not None and collection is not None:
                    changed = _rewrite(transaction, collection, row, update)
                    value = changed if new else row.doc
                elif upsert:
                    inserted = _upsert(transaction, arguments, query, update)
                    last = {"n": 1, "updatedExisting": False, "upserted": inserted["_id"]}
                    value = inserted if new else None
        return {"lastErrorObject": last, "value": None if value is None else project(value), "ok": 1.0}


def _bounded(statements: list[Any]) -> list[Any]:
    if not 1 <= len(statements) <= WRITE_BATCH_MAX:
        raise CommandError(72, f"Write batch sizes must be between 1 and {WRITE_BATCH_MAX}, got {len(statements)}")
    return statements


def _decoded(statement: Any) -> Any:
    if not isinstance(statement, bytes):
        return statement
    try:
        return bson.decode(statement)
    except BSONError as error:
        raise bad_value(f"invalid BSON: {error}") from error


def _prepared(raws: list[Any], collection: Collection | None) -> Prepared | None:
    """None if one of them cannot be stored: an error of that document, not of the whole command."""
    try:
        return prepare(raws, collection)
    except CommandError:
        return None


def _insert_all(
    transaction: WriteTransaction, collection: Collection, raws: list[Any], prepared: Prepared | None, ordered: bool
) -> Doc:
    if prepared is not None:
        try:
            with _savepoint(transaction):
                insert(transaction, collection, prepared)
            return {"n": len(raws), "ok": 1.0}
        except sqlite3.IntegrityError:
            pass  # some key is taken
    # Find out which cannot be stored, one document after the other.
    stored = 0
    errors = []
    for position, raw in enumerate(raws):
        try:
            insert_one(transaction, collection, raw)
            stored += 1
        except CommandError as error:
            errors.append(error.write_error(position))
            if ordered:
                break
    return {"n": stored, "ok": 1.0, **({"writeErrors": errors} if errors else {})}


def _update(transaction: WriteTransaction, arguments: Arguments, statement: Doc) -> tuple[int, int, tuple[Any, ...]]:
    """Matched, modified, and the new `_id` (in a tuple, since it may be anything) if the statement inserted."""
    query = statement.get("q", {})
    compile_filter(query)
    update = Update(statement.get("u"))
    multi = bool(statement.get("multi"))
    if multi and update.is_replacement:
        raise CommandError(9, "multi update is not supported for replacement-style update")
    collection = transaction.catalog.find(arguments.database, arguments.target)
    found = [] if collection is None else _matching(transaction, collection, query, multi=multi)
    if collection is None or not found:
        if statement.get("upsert"):
            return 1, 0, (_upsert(transaction, arguments, query, update)["_id"],)
        return 0, 0, ()
    modified = 0
    for rid in found:
        row = load(transaction.connection, collection, rid)
        modified += _rewrite(transaction, collection, row, update) is not row.doc
    return len(found), modified, ()


def _matching(transaction: WriteTransaction, collection: Collection, query: Doc, *, multi: bool) -> Sequence[int]:
    """The ids of the rows to change, read to the end before the first change: a changed row may move in its index."""
    if multi:
        return array("q", (row.rid for row in rows(transaction.connection, collection, query)))
    row = first(transaction.connection, collection, query, None)
    return [] if row is None else [row.rid]


def _rewrite(transaction: WriteTransaction, collection: Collection, row: Row, update: Update) -> Doc:
    """The changed document, or the very same object where nothing changed."""
    changed = update.apply(row.body, row.doc, utc_now())
    if bson.encode(changed) == row.body:
        return row.doc
    replace(transaction, collection, row, changed)
    return changed


def _upsert(transaction: WriteTransaction, arguments: Arguments, query: Doc, update: Update) -> Doc:
    doc = update.insertion(query, utc_now())
    collection = transaction.collection(arguments.database, arguments.target)
    insert_one(transaction, collection, doc)
    return doc


def _delete(transaction: WriteTransaction, arguments: Arguments, statement: Doc) -> int:
    query = statement.get("q", {})
    compile_filter(query)
    collection = transaction.catalog.find(arguments.database, arguments.target)
    if collection is None:
        return 0
    doomed = _matching(transaction, collection, query, multi=statement["limit"] == 0)
    for rid in doomed:
        delete(transaction, collection, load(transaction.connection, collection, rid))
    return len(doomed)
