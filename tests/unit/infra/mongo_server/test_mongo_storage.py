"""Transactions, expiry and what a failed command leaves behind."""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import bson
import pytest

from infra.mongo_server.catalog import Collection
from infra.mongo_server.cursors import OPEN_MAX, Cursor, Cursors
from infra.mongo_server.documents import insert, prepare, utc_now
from infra.mongo_server.errors import CommandError
from infra.mongo_server.expiry import sweep
from infra.mongo_server.moments import KEPT_MAX, Moments
from infra.mongo_server.reads import bodies
from infra.mongo_server.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage(tmp_path / "data.sqlite")
    yield opened
    opened.close()


def store(storage: Storage, documents: list[dict[str, Any]], *specs: tuple[dict[str, int], dict[str, Any]]) -> None:
    with storage.write() as transaction:
        collection = transaction.collection("app", "things")
        for key, options in specs:
            spec = {"v": 2, "key": key, "name": "_".join(key), **options}
            collection, _ = transaction.add_index(collection, spec)
        insert(transaction, collection, prepare(documents, collection))


def rows_of(storage: Storage) -> dict[str, int]:
    """Rows per table of the one collection."""
    with storage.read() as snapshot:
        collection = snapshot.catalog.collections["app", "things"]
        tables = [collection.table, *[index.table for index in collection.indexes]]
        return {table: snapshot.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


class TestEntries:
    DOCUMENTS: tuple[dict[str, Any], ...] = (
        {"_id": 1, "a": "x", "b": {"c": 2}},
        {"_id": 1},
        {"_id": 1, "a": None, "b": None},
        {"_id": 1, "a": "y", "b": {"c": 3}},
        {"_id": 1, "a": "y\0z", "b": {"c": 3}},
        {"_id": 1, "a": [], "b": {"c": [1, 2]}},
        {"_id": 1, "a": ["x", "y"], "b": 3},
        {"_id": 1, "a": 1.5, "b": [{"c": 1}, {"c": 2}]},
    )

    @pytest.fixture
    def collection(self, storage: Storage) -> Collection:
        keys: list[tuple[dict[str, int], dict[str, Any]]] = [
            ({"a": 1}, {}),
            ({"a": -1, "_id": 1}, {}),
            ({"b.c": -1, "_id": -1}, {}),
            ({"b.c": 1}, {"sparse": True}),
            ({"b": 1}, {"partialFilterExpression": {"a": "x"}}),
        ]
        store(storage, [], *keys)
        with storage.read() as snapshot:
            found = snapshot.catalog.collections["app", "things"]
        assert len(found.indexes) == 1 + len(keys)
        return found

    @pytest.mark.parametrize("document", DOCUMENTS)
    def test_the_short_way_to_the_keys_ends_where_each_index_would(
        self, collection: Collection, document: dict[str, Any]
    ) -> None:
        assert collection.keys(document) == [index.entries(document) for index in collection.indexes]

    @pytest.mark.parametrize("documents", [DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[:4], DOCUMENTS[:1] * 3])
    def test_many_documents_have_the_entries_that_each_has_alone(
        self, collection: Collection, documents: Sequence[dict[str, Any]]
    ) -> None:
        for index, found in zip(collection.indexes, collection.entries(documents), strict=True):
            alone = [(key, owner) for owner, document in enumerate(documents) for key in index.entries(document)]
            assert list(zip(found.keys, found.owners, strict=True)) == alone
            assert found.fan_out is any(len(index.entries(document)) > 1 for document in documents)


class TestInsert:
    def test_a_batch_of_any_size_is_stored_under_its_own_keys(self, storage: Storage) -> None:
        """More documents than are decoded at once, or go into one statement, and not a multiple of either."""
        documents = [{"_id": number, "a": f"a{number}", "b": [number, -number]} for number in range(301)]
        store(storage, documents, ({"a": 1}, {"unique": True}), ({"b": 1}, {}))
        with storage.read() as snapshot:
            collection = snapshot.catalog.collections["app", "things"]
            for number in (0, 63, 64, 128, 300):
                for query in ({"_id": number}, {"a": f"a{number}"}, {"b": -number}):
                    found = list(bodies(snapshot.connection, collection, query))
                    assert [bson.decode(body) for body in found] == [documents[number]]


class TestSweep:
    @pytest.mark.parametrize("direction", [1, -1])
    def test_removes_expired_documents_with_all_their_entries(self, storage: Storage, direction: int) -> None:
        now = utc_now()
        expired = [{"_id": f"old{number}", "at": now - timedelta(hours=2), "n": number} for number in range(1200)]
        kept: list[dict[str, Any]] = [
            {"_id": "young", "at": now, "n": -1},
            {"_id": "undated", "n": -2},
            {"_id": "text", "at": "2001-01-01", "n": -3},
        ]
        store(storage, expired + kept, ({"at": direction}, {"expireAfterSeconds": 3600}), ({"n": 1}, {"unique": True}))
        assert sweep(storage) == 1200
        assert set(rows_of(storage).values()) == {3}
        assert sweep(storage) == 0


class TestWrite:
    def test_failed_transaction_leaves_neither_rows_nor_collections(self, storage: Storage) -> None:
        with pytest.raises(sqlite3.IntegrityError):
            store(storage, [{"_id": 1}, {"_id": 1}])
        with storage.read() as snapshot:
            assert snapshot.catalog.find("app", "things") is None
            assert snapshot.connection.execute(
                "SELECT count(*) FROM sqlite_master WHERE name LIKE 'doc%'"
            ).fetchone() == (0,)
        store(storage, [{"_id": 1}])
        assert set(rows_of(storage).values()) == {1}

    def test_snapshot_keeps_its_catalog_while_the_collection_is_dropped(self, storage: Storage) -> None:
        store(storage, [{"_id": 1}])
        with storage.read() as before:
            with storage.write() as transaction:
                transaction.drop(transaction.catalog.collections["app", "things"])
            table = before.catalog.collections["app", "things"].table
            assert before.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)
        with storage.read() as after:
            assert after.catalog.find("app", "things") is None

    def test_foreign_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "other.sqlite"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE t (x)")
        connection.close()
        with pytest.raises(ValueError, match="no data file"):
            Storage(path)

    def test_writes_are_flushed_before_they_are_acknowledged(self, storage: Storage) -> None:
        with storage.write() as transaction:
            assert transaction.connection.execute("PRAGMA synchronous").fetchone() == (2,)
            assert transaction.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


class TestCursors:
    def test_open_cursors_are_bounded_and_idle_ones_closed(self, storage: Storage) -> None:
        cursors = Cursors()

        def open_one() -> Cursor:
            return Cursor("app.things", iter([b"\x05\0\0\0\0"] * 5), storage.snapshot(), storage.release)

        for _ in range(OPEN_MAX):
            cursors.first_answer(open_one(), 1, single=False)
        with pytest.raises(CommandError):
            cursors.first_answer(open_one(), 1, single=False)
        cursors.close_idle(0.0)
        assert cursors.first_answer(open_one(), 1, single=False)["cursor"]["id"] != 0
        cursors.close_idle(0.0)


class TestMoments:
    def test_kept_snapshots_are_bounded_and_idle_ones_closed(self, storage: Storage) -> None:
        moments = Moments(storage)
        first, snapshot = moments.find(None)
        assert moments.find(first) == (first, snapshot)
        for _ in range(KEPT_MAX - 1):
            moments.find(None)
        with pytest.raises(CommandError):
            moments.find(None)
        moments.close_idle(0.0)
        assert moments.find(None)[0] != first
        with pytest.raises(CommandError):
            moments.find(first)
        moments.close_idle(0.0)
