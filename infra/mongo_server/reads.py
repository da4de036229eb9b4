"""Finding documents: plan, scan, sort, page; everything lazy but a sort without an index, which is bounded."""

import heapq
import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

import bson

from infra.mongo_server.catalog import Collection
from infra.mongo_server.documents import Examined, Row, fetch, scan
from infra.mongo_server.errors import CommandError
from infra.mongo_server.match import compile_filter
from infra.mongo_server.paths import Doc
from infra.mongo_server.planner import Plan, choose
from infra.mongo_server.projection import Projection
from infra.mongo_server.sorting import compile_sort, parse_sort

SORT_ROWS_MAX: Final = 500_000


def rows(
    connection: sqlite3.Connection, collection: Collection, query: Doc, examined: Examined | None = None
) -> Iterator[Row]:
    """Every matching row, unsorted."""
    matches = compile_filter(query) if query else None
    return scan(connection, collection, choose(collection, query, ()), matches, examined or Examined())


def bodies(
    connection: sqlite3.Connection,
    collection: Collection,
    query: Doc,
    *,
    sort: Doc | None = None,
    skip: int = 0,
    limit: int = 0,
    plan: Plan | None = None,
    examined: Examined | None = None,
) -> Iterator[bytes]:
    """The BSON of the matching documents in order, from `skip`, at most `limit` (0 = all)."""
    return (
        body for _, body in _ordered(connection, collection, query, sort, skip, limit, plan, examined or Examined())
    )


def first(connection: sqlite3.Connection, collection: Collection, query: Doc, sort: Doc | None) -> Row | None:
    for rid, body in _ordered(connection, collection, query, sort, 0, 1, None, Examined()):
        return Row(rid, body)
    return None


def _ordered(
    connection: sqlite3.Connection,
    collection: Collection,
    query: Doc,
    sort: Doc | None,
    skip: int,
    limit: int,
    plan: Plan | None,
    examined: Examined,
) -> Iterator[tuple[int, bytes]]:
    matches = compile_filter(query) if query else None
    if plan is None:
        plan = choose(collection, query, parse_sort(sort or {}))
    found = scan(connection, collection, plan, matches, examined)
    stop = skip + limit if limit else None
    if plan.sorted or not sort:
        return ((row.rid, row.body) for row in islice(found, skip, stop))
    key = compile_sort(sort)
    keys = ((key(row.doc), row.rid) for row in found)
    if stop is not None and stop <= SORT_ROWS_MAX:
        order = heapq.nsmallest(stop, keys)
    else:
        order = list(islice(keys, SORT_ROWS_MAX + 1))
        if len(order) > SORT_ROWS_MAX:
            raise CommandError(292, f"a sort of more than {SORT_ROWS_MAX} documents without an index")
        order.sort()
    return ((rid, fetch(connection, collection, rid)) for _, rid in order[skip:stop])


def projected(found: Iterator[bytes], projection: Projection | None) -> Iterator[bytes]:
    if projection is None:
        return found
    return (bson.encode(projection(bson.decode(body))) for body in found)


def count(connection: sqlite3.Connection, collection: Collection, query: Doc, skip: int, limit: int) -> int:
    if not query and not collection.expiring:
        (total,) = connection.execute(f"SELECT count(*) FROM {collection.indexes[0].table}").fetchone()
        total = max(0, total - skip)
        return min(total, limit) if limit else int(total)
    stop = skip + limit if limit else None
    return sum(1 for _ in islice(rows(connection, collection, query), skip, stop))


def counted(pipeline: list[Any]) -> tuple[Doc, Callable[[int], Doc]] | None:
    """The filter and the answer's shape if a pipeline only counts, as drivers' `count_documents` does."""
    if not 1 <= len(pipeline) <= 2 or (len(pipeline) == 2 and "$match" not in pipeline[0]):
        return None
    query = pipeline[0]["$match"] if len(pipeline) == 2 else {}
    last = pipeline[-1]
    if "$count" in last:
        return query, lambda total: {last["$count"]: total}
    if last == {"$group": {"_id": 1, "n": {"$sum": 1}}}:
        return query, lambda total: {"_id": last["$group"]["_id"], "n": total}
    return None


def pushed_down(pipeline: list[Any]) -> tuple[Doc, Doc | None, int]:
    """What of a pipeline's head the planner can answer: its `$match`es, a `$sort`, and how many stages that was."""
    filters: list[Doc] = []
    taken = 0
    while taken < len(pipeline) and "$match" in pipeline[taken]:
        filters.append(pipeline[taken]["$match"])
        taken += 1
    query: Doc = {} if not filters else filters[0] if len(filters) == 1 else {"$and": filters}
    if taken < len(pipeline) and "$sort" in pipeline[taken]:
        return query, pipeline[taken]["$sort"], taken + 1
    return query, None, taken
