"""find, getMore, killCursors, count, distinct, aggregate, explain."""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import bson

from infra.mongo_server.aggregate import Source, compile_pipeline, stage_of
from infra.mongo_server.arguments import Arguments, check_fields
from infra.mongo_server.catalog import Collection
from infra.mongo_server.cursors import Cursor, Cursors
from infra.mongo_server.documents import Examined
from infra.mongo_server.errors import CommandError, bad_value
from infra.mongo_server.keys import encode
from infra.mongo_server.match import compile_filter
from infra.mongo_server.merge import compile_merge
from infra.mongo_server.moments import Moments
from infra.mongo_server.paths import MISSING, Doc, lookup, split
from infra.mongo_server.planner import choose
from infra.mongo_server.projection import Projection, compile_projection
from infra.mongo_server.reads import bodies, count, counted, projected, pushed_down, rows
from infra.mongo_server.sorting import parse_sort
from infra.mongo_server.storage import Snapshot, Storage

_FIND = frozenset(
    {"filter", "sort", "projection", "skip", "limit", "batchSize", "singleBatch", "allowDiskUse", "noCursorTimeout"}
)
_Open = Callable[[Snapshot, Collection], Iterator[bytes]]


class Reads:
    """The commands that change nothing (but `aggregate` with `$merge`)."""

    def __init__(self, storage: Storage, cursors: Cursors, moments: Moments) -> None:
        self._storage = storage
        self._cursors = cursors
        self._moments = moments

    def _answer(self, arguments: Arguments, open_: _Open, batch_size: int | None, *, single: bool = False) -> Doc:
        """Run over a snapshot that lives as long as its cursor, or is of a moment that was asked for."""
        moment = None
        if arguments.of_a_moment:
            moment, snapshot = self._moments.find(arguments.moment)
            release = self._moments.release
        else:
            snapshot, release = self._storage.snapshot(), self._storage.release
        try:
            collection = snapshot.catalog.find(arguments.database, arguments.target)
            documents = iter(()) if collection is None else open_(snapshot, collection)
            cursor = Cursor(f"{arguments.database}.{arguments.target}", documents, snapshot, release)
        except BaseException:
            release(snapshot)
            raise
        answer = self._cursors.first_answer(cursor, batch_size, single=single)
        if moment is not None:
            answer["cursor"]["atClusterTime"] = moment
        return answer

    def find(self, arguments: Arguments) -> Doc:
        arguments.check(_FIND, of_a_moment=True)
        query, sort, projection = _find_parts(arguments)
        skip, limit = arguments.number("skip"), arguments.number("limit")

        def open_(snapshot: Snapshot, collection: Collection) -> Iterator[bytes]:
            found = bodies(snapshot.connection, collection, query, sort=sort, skip=skip, limit=limit)
            return projected(found, projection)

        return self._answer(arguments, open_, arguments.batch_size(), single=arguments.flag("singleBatch"))

    def get_more(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"collection", "batchSize"}), of_a_moment=True)
        namespace = f"{arguments.database}.{arguments.body.get('collection')}"
        cursor_id = arguments.body["getMore"]
        if not isinstance(cursor_id, int):
            raise CommandError(14, "'getMore' must be a cursor id")
        return self._cursors.next_answer(cursor_id, namespace, arguments.batch_size())

    def kill_cursors(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"cursors"}))
        answer: dict[str, Any] = {
            "cursorsKilled": [],
            "cursorsNotFound": [],
            "cursorsAlive": [],
            "cursorsUnknown": [],
            "ok": 1.0,
        }
        wanted = arguments.body.get("cursors")
        if not isinstance(wanted, list) or not all(isinstance(cursor_id, int) for cursor_id in wanted):
            raise CommandError(14, "'cursors' must be an array of cursor ids")
        for cursor_id in wanted:
            answer["cursorsKilled" if self._cursors.kill(cursor_id) else "cursorsNotFound"].append(cursor_id)
        return answer

    def count(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"query", "skip", "limit"}))
        query = arguments.document("query")
        compile_filter(query)
        with self._storage.read() as snapshot:
            collection = snapshot.catalog.find(arguments.database, arguments.target)
            skip, limit = arguments.number("skip"), arguments.number("limit")
            total = 0 if collection is None else count(snapshot.connection, collection, query, skip, limit)
        return {"n": total, "ok": 1.0}

    def distinct(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"key", "query"}))
        query = arguments.document("query")
        compile_filter(query)
        if not isinstance(arguments.body.get("key"), str):
            raise bad_value("'key' must be a string")
        parts = split(arguments.body["key"])
        values: dict[bytes, Any] = {}
        with self._storage.read() as snapshot:
            collection = snapshot.catalog.find(arguments.database, arguments.target)
            for row in () if collection is None else rows(snapshot.connection, collection, query):
                for value in lookup(row.doc, parts):
                    for item in value if isinstance(value, list) else [value]:
                        if item is not MISSING:
                            values.setdefault(encode(item), item)
        return {"values": [values[key] for key in sorted(values)], "ok": 1.0}

    def aggregate(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"pipeline", "cursor", "allowDiskUse"}))
        pipeline = arguments.body.get("pipeline")
        if not isinstance(pipeline, list) or not isinstance(arguments.body.get("cursor"), dict):
            raise CommandError(9, "aggregate needs 'pipeline' (an array) and 'cursor' (an object)")
        options = arguments.document("cursor")
        check_fields("cursor", options, frozenset({"batchSize"}))
        merge = None
        if pipeline and stage_of(pipeline[-1])[0] == "$merge":
            merge = compile_merge(pipeline[-1]["$merge"], arguments.database)
            pipeline = pipeline[:-1]
        compile_pipeline(pipeline)
        if merge is not None:
            with self._storage.read() as snapshot:
                collection = snapshot.catalog.find(arguments.database, arguments.target)
                if collection is not None:
                    merge(self._storage, _run(snapshot.connection, collection, pipeline))
            pipeline = [{"$match": {"_id": {"$in": []}}}]
        return self._answer(
            arguments,
            lambda snapshot, collection: map(bson.encode, _run(snapshot.connection, collection, pipeline)),
            arguments.batch_size(options),
        )

    def explain(self, arguments: Arguments) -> Doc:
        """Only of `find`: the plan and, by running it, what it examined."""
        arguments.check(frozenset({"verbosity"}))
        inner_body = arguments.document("explain")
        if next(iter(inner_body), None) != "find":
            raise CommandError(115, "explain is only supported for find")
        inner = Arguments(arguments.database, "find", inner_body, {})
        inner.check(_FIND)
        query, sort, _ = _find_parts(inner)
        with self._storage.read() as snapshot:
            collection = snapshot.catalog.find(inner.database, inner.target)
            if collection is None:
                return {"queryPlanner": {"winningPlan": {"stage": "EOF"}}, "ok": 1.0}
            plan = choose(collection, query, parse_sort(sort or {}))
            examined = Examined()
            skip, limit = inner.number("skip"), inner.number("limit")
            found = bodies(
                snapshot.connection, collection, query, sort=sort, skip=skip, limit=limit, plan=plan, examined=examined
            )
            returned = sum(1 for _ in found)
        winning = plan.describe() if plan.sorted else {"stage": "SORT", "inputStage": plan.describe()}
        return {
            "queryPlanner": {"namespace": collection.namespace, "winningPlan": winning},
            "executionStats": {
                "executionSuccess": True,
                "nReturned": returned,
                "totalKeysExamined": examined.keys,
                "totalDocsExamined": examined.documents,
            },
            "ok": 1.0,
        }


def _find_parts(arguments: Arguments) -> tuple[Doc, Doc | None, Projection | None]:
    """Filter, sort and projection, checked although the collection may be empty or absent."""
    query = arguments.document("filter")
    compile_filter(query)
    sort = arguments.document("sort") or None
    parse_sort(sort or {})
    spec = arguments.document("projection")
    return query, sort, compile_projection(spec, computed=False) if spec else None


def _run(connection: sqlite3.Connection, collection: Collection, pipeline: list[Any]) -> Iterator[Doc]:
    if (counting := counted(pipeline)) is not None:
        total = count(connection, collection, counting[0], 0, 0)
        return iter([counting[1](total)] if total else [])
    query, sort, taken = pushed_down(pipeline)
    if sort is not None and not choose(collection, query, parse_sort(sort)).sorted:
        sort, taken = None, taken - 1  # better sorted by the stage, which knows of a following $limit

    def source() -> Iterator[Doc]:
        return map(bson.decode, bodies(connection, collection, query, sort=sort))

    head: Source = source
    return compile_pipeline(pipeline[taken:])(head)()
