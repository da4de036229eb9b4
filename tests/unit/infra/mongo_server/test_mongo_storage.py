"""Transactions, expiry and what a failed command leaves behind."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from infra.mongo_server.cursors import OPEN_MAX, Cursor, Cursors
from infra.mongo_server.documents import insert, prepare, utc_now
from infra.mongo_server.errors import CommandError
from infra.mongo_server.expiry import sweep
from infra.mongo_server.moments import KEPT_MAX, Moments
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
        insert(transaction, collection, [prepare(document, collection) for document in documents])


def rows_of(storage: Storage) -> dict[str, int]:
    """Rows per table of the one collection."""
    with storage.read() as snapshot:
        collection = snapshot.catalog.collections["app", "things"]
        tables = [collection.table, *[index.table for index in collection.indexes]]
        return {table: snapshot.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


class TestEntries:
    @pytest.mark.parametrize(
        "document",
        [
            {"_id": 1, "a": "x", "b": {"c": 2}},
            {"_id": 1},
            {"_id": 1, "a": None, "b": None},
            {"_id": 1, "a": [], "b": {"c": [1, 2]}},
            {"_id": 1, "a": ["x", "y"], "b": 3},
            {"_id": 1, "a": 1.5, "b": [{"c": 1}, {"c": 2}]},
        ],
    )
    def test_the_short_way_to_the_keys_ends_where_each_index_would(
        self, storage: Storage, document: dict[str, Any]
    ) -> None:
        keys: list[tuple[dict[str, int], dict[str, Any]]] = [
            ({"a": 1}, {}),
            ({"a": -1, "_id": 1}, {}),
            ({"b.c": -1, "_id": -1}, {}),
            ({"b.c": 1}, {"sparse": True}),
            ({"b": 1}, {"partialFilterExpression": {"a": "x"}}),
        ]
        store(storage, [], *keys)
        with storage.read() as snapshot:
            collection = snapshot.catalog.collections["app", "things"]
        assert collection.entries(document) == [index.entries(document) for index in collection.indexes]
        assert len(collection.entries(document)) == 1 + len(keys)


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
