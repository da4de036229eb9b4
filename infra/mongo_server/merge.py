"""`$merge`: the result of a pipeline into a collection, in one transaction."""

from collections.abc import Callable, Iterator
from typing import Any

from bson.objectid import ObjectId

from infra.mongo_server.arguments import check_fields
from infra.mongo_server.catalog import Collection
from infra.mongo_server.documents import insert_one, replace
from infra.mongo_server.errors import CommandError, bad_value, not_supported
from infra.mongo_server.paths import MISSING, Doc, get_one, split
from infra.mongo_server.reads import first
from infra.mongo_server.storage import Storage, WriteTransaction

Merge = Callable[[Storage, Iterator[Doc]], None]
_MATCHED = ("merge", "replace", "keepExisting", "fail")
_NOT_MATCHED = ("insert", "discard", "fail")


def compile_merge(spec: Any, database: str) -> Merge:
    if isinstance(spec, str):
        spec = {"into": spec}
    check_fields("$merge", spec, frozenset({"into", "on", "whenMatched", "whenNotMatched"}))
    into = spec.get("into")
    if isinstance(into, dict):
        check_fields("$merge.into", into, frozenset({"db", "coll"}))
        database, into = into.get("db", database), into.get("coll")
    if not isinstance(into, str) or not into or not isinstance(database, str):
        raise bad_value("$merge needs the collection to merge into")
    on = [spec["on"]] if isinstance(spec.get("on"), str) else spec.get("on", ["_id"])
    if not isinstance(on, list) or not on or not all(isinstance(path, str) for path in on):
        raise CommandError(14, "'on' of $merge takes the name of a field or an array of them")
    matched, unmatched = spec.get("whenMatched", "merge"), spec.get("whenNotMatched", "insert")
    if matched not in _MATCHED:
        raise not_supported(f"$merge with whenMatched {matched!r}")
    if unmatched not in _NOT_MATCHED:
        raise bad_value(f"$merge with whenNotMatched {unmatched!r}")

    def merge(storage: Storage, documents: Iterator[Doc]) -> None:
        with storage.write() as transaction:
            collection = transaction.collection(database, into)
            _require_unique(collection, on)
            for doc in documents:
                _merge_one(transaction, transaction.collection(database, into), doc, on, matched, unmatched)

    return merge


def _require_unique(collection: Collection, on: list[str]) -> None:
    for index in collection.indexes:
        if index.unique and index.partial is None and {path for path, _ in index.fields} == set(on):
            return
    raise CommandError(51183, f"cannot find a unique index over exactly the 'on' fields {on}")


def _merge_one(
    transaction: WriteTransaction, collection: Collection, doc: Doc, on: list[str], matched: str, unmatched: str
) -> None:
    if "_id" in on and "_id" not in doc:
        doc = {"_id": ObjectId(), **doc}
    query = {}
    for path in on:
        value = get_one(doc, split(path))
        if value is MISSING or value is None or isinstance(value, list):
            raise CommandError(51132, f"$merge: the 'on' field {path!r} is missing, null or an array")
        query[path] = {"$eq": value}
    row = first(transaction.connection, collection, query, None)
    if row is None:
        if unmatched == "fail":
            raise CommandError(13113, "$merge could not find a matching document")
        if unmatched == "insert":
            insert_one(transaction, collection, doc)
    elif matched == "fail":
        raise CommandError(11000, "$merge found a matching document")
    elif matched != "keepExisting":
        base = row.doc if matched == "merge" else {"_id": row.doc["_id"]}
        replace(transaction, collection, row, {**base, **doc, "_id": doc.get("_id", row.doc["_id"])})
