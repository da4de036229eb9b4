"""Plans: an index may only make a read cheaper, never change what it finds."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from infra.mongo_server.catalog import Collection
from infra.mongo_server.documents import Examined, backfill, insert, prepare
from infra.mongo_server.match import compile_filter
from infra.mongo_server.planner import choose
from infra.mongo_server.reads import bodies
from infra.mongo_server.sorting import compile_sort, parse_sort
from infra.mongo_server.storage import Storage

scalars = st.sampled_from([None, 0, 1, 2, 2.5, 3, "a", "b", "", True, False])
values = st.one_of(scalars, st.lists(scalars, max_size=3))
operators = st.one_of(
    st.builds(lambda value: {"$eq": value}, values),
    st.builds(lambda name, value: {name: value}, st.sampled_from(["$gt", "$gte", "$lt", "$lte", "$ne"]), scalars),
    st.builds(lambda low, high: {"$gte": low, "$lt": high}, scalars, scalars),
    st.builds(lambda items: {"$in": items}, st.lists(values, max_size=3)),
    st.builds(lambda flag: {"$exists": flag}, st.booleans()),
    st.builds(lambda value: {"$not": {"$gt": value}}, scalars),
)
paths = st.sampled_from(["a", "b", "c.d"])
clauses = st.dictionaries(paths, st.one_of(values, operators), min_size=1, max_size=3)
queries = st.one_of(
    clauses,
    st.just({}),
    st.builds(lambda branches: {"$or": branches}, st.lists(clauses, min_size=1, max_size=3)),
    st.builds(lambda first, branches: {**first, "$or": branches}, clauses, st.lists(clauses, min_size=1, max_size=2)),
    st.builds(lambda branches: {"$and": branches}, st.lists(clauses, min_size=1, max_size=3)),
)
sorts = st.dictionaries(paths, st.sampled_from([1, -1]), max_size=3)
fields = st.fixed_dictionaries(
    {}, optional={"a": values, "b": scalars, "c": st.one_of(scalars, st.fixed_dictionaries({"d": values}))}
)
PARTIAL = [{"a": 1}, {"a": {"$exists": True}}, {"b": {"$gt": 0}}, {"b": {"$in": ["a", 1]}}]
index_specs = st.builds(
    lambda key, options: {"v": 2, "key": key, "name": "_".join(key), **options},
    st.dictionaries(paths, st.sampled_from([1, -1]), min_size=1, max_size=2).filter(
        lambda key: not {"a", "c.d"} <= set(key)
    ),
    st.one_of(
        st.just({}),
        st.just({"sparse": True}),
        st.sampled_from(PARTIAL).map(lambda partial: {"partialFilterExpression": partial}),
    ),
)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    opened = Storage(Path(tmp_path_factory.mktemp("planner")) / "data.sqlite")
    yield opened
    opened.close()


class TestChoose:
    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        documents=st.lists(fields, max_size=12),
        specs=st.lists(index_specs, max_size=3, unique_by=lambda spec: spec["name"]),
        query=queries,
        sort=sorts,
    )
    @example([{"a": [False]}], [{"v": 2, "key": {"a": -1}, "name": "a"}], {"a": {"$lt": True}}, {})
    @example([{"a": ""}], [{"v": 2, "key": {"a": -1}, "name": "a"}], {"a": {"$lt": "a"}}, {})
    def test_finds_and_orders_as_without_any_index(
        self,
        storage: Storage,
        documents: list[dict[str, Any]],
        specs: list[dict[str, Any]],
        query: dict[str, Any],
        sort: dict[str, Any],
    ) -> None:
        with storage.write() as transaction:
            collection = transaction.collection("app", "things")
            for spec in specs[:1]:  # one index before the documents, the others over them
                collection, _ = transaction.add_index(collection, spec)
            stored = [{"_id": number, **document} for number, document in enumerate(documents)]
            insert(transaction, collection, prepare([bson.encode(document) for document in stored], collection))
            for spec in specs[1:]:
                collection, index = transaction.add_index(collection, spec)
                backfill(transaction, collection, index)
            collection = transaction.catalog.collections["app", "things"]
            found = [bson.decode(body) for body in bodies(transaction.connection, collection, query, sort=sort)]
            transaction.drop(collection)
        wanted = list(filter(compile_filter(query), stored))
        assert sorted(doc["_id"] for doc in found) == [doc["_id"] for doc in wanted]
        if sort:
            key = compile_sort(sort)
            assert [key(doc) for doc in found] == sorted(map(key, wanted))


class TestQueryPlans:
    """SQLite itself confirms that a plan searches by key and never scans or sorts."""

    def _plan(self, connection: sqlite3.Connection, collection: Collection, query: Any, sort: Any) -> list[str]:
        plan = choose(collection, query, parse_sort(sort))
        assert plan.index is not None
        assert plan.sorted
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        list(bodies(connection, collection, query, sort=sort))
        connection.set_trace_callback(None)
        rows = [row for statement in statements for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        return [str(row[3]) for row in rows]

    @pytest.mark.parametrize(
        ("query", "sort"),
        [
            ({"event_id": "e"}, {}),
            ({"customer_id": 1}, {"at": -1}),
            ({"customer_id": 1, "at": {"$lt": 5}}, {"at": 1}),
            ({"customer_id": 1, "$or": [{"at": {"$lt": 5}}, {"at": 5, "_id": {"$lt": "x"}}]}, {"at": -1, "_id": -1}),
            ({}, {"_id": -1}),
        ],
    )
    def test_search_by_key_only(self, tmp_path: Path, query: dict[str, Any], sort: dict[str, Any]) -> None:
        storage = Storage(tmp_path / "data.sqlite")
        with storage.write() as transaction:
            collection = transaction.collection("app", "things")
            for key, options in (({"event_id": 1}, {"unique": True}), ({"customer_id": 1, "at": -1, "_id": -1}, {})):
                spec = {"v": 2, "key": key, "name": "_".join(key), **options}
                collection, _ = transaction.add_index(collection, spec)
            steps = self._plan(transaction.connection, collection, query, sort)
        storage.close()
        assert steps
        assert all(step.startswith("SEARCH") for step in steps), steps

    def test_limit_ends_the_read(self, tmp_path: Path) -> None:
        storage = Storage(tmp_path / "data.sqlite")
        with storage.write() as transaction:
            collection = transaction.collection("app", "things")
            insert(transaction, collection, prepare([{"_id": number} for number in range(1000)], collection))
            examined = Examined()
            found = bodies(transaction.connection, collection, {}, sort={"_id": -1}, limit=5, examined=examined)
            assert [bson.decode(body)["_id"] for body in found] == [999, 998, 997, 996, 995]
        storage.close()
        assert examined.documents == 5
