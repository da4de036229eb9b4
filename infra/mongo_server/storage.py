"""One SQLite file: a table of BSON bodies per collection, a table of keys per index, and the catalog.

One writer at a time (a lock, a single connection); a write is acknowledged after its commit has reached the disk
(`synchronous=FULL`). Readers have connections of their own and see the last commit (WAL), together with the catalog
that belongs to it.
"""

import fcntl
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import bson

from infra.mongo_server.catalog import Catalog, Collection, Index
from infra.mongo_server.errors import CommandError

_APPLICATION_ID: Final = 0x42524B47
_FORMAT: Final = 1  # of the keys and tables; another one is refused, never guessed at
_IDLE_READERS_MAX: Final = 4
# Of a new file. Keys that begin with a customer lie on as many pages as there are customers, and a batch touches them all: twice
# the size is cheaper only as long as they are few.
_PAGE_BYTES: Final = 8_192
_CACHE_KIB: Final = 32_768  # of the writer, who would read these pages again and again
_LOG_BYTES: Final = 65_536_000  # after which the log is folded into the file: a page that changed often is written once
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (generation INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS collections (
    id INTEGER PRIMARY KEY, database TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (database, name));
CREATE TABLE IF NOT EXISTS indexes (
    id INTEGER PRIMARY KEY, collection_id INTEGER NOT NULL, multikey INTEGER NOT NULL DEFAULT 0, spec BLOB NOT NULL);
INSERT INTO meta SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM meta);
"""
ID_SPEC: Final[dict[str, Any]] = {"v": 2, "key": {"_id": 1}, "name": "_id_"}


@dataclass(slots=True)
class Snapshot:
    """A read transaction: a connection and the catalog of the same commit. Used by one thread at a time."""

    connection: sqlite3.Connection
    catalog: Catalog


class WriteTransaction:
    """The writer's view inside one transaction; DDL goes through here so that the catalog follows."""

    def __init__(self, connection: sqlite3.Connection, catalog: Catalog) -> None:
        self.connection = connection
        self.catalog = catalog

    def _changed(self) -> None:
        self.connection.execute("UPDATE meta SET generation = generation + 1")
        self.catalog = load_catalog(self.connection)

    def collection(self, database: str, name: str) -> Collection:
        """The collection, made if it is new."""
        found = self.catalog.find(database, name)
        if found is not None:
            return found
        cursor = self.connection.execute("INSERT INTO collections (database, name) VALUES (?, ?)", (database, name))
        collection_id = cursor.lastrowid
        self.connection.execute(f"CREATE TABLE documents_{collection_id} (rid INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        self._add_index(collection_id, ID_SPEC, unique=True)
        self._changed()
        return self.catalog.collections[database, name]

    def add_index(self, collection: Collection, spec: dict[str, Any]) -> tuple[Collection, Index]:
        self._add_index(collection.id, spec, unique=bool(spec.get("unique")))
        self._changed()
        fresh = self.catalog.collections[collection.database, collection.name]
        return fresh, fresh.indexes[-1]

    def _add_index(self, collection_id: int | None, spec: dict[str, Any], *, unique: bool) -> None:
        cursor = self.connection.execute(
            "INSERT INTO indexes (collection_id, spec) VALUES (?, ?)", (collection_id, bson.encode(spec))
        )
        key = "key BLOB PRIMARY KEY, rid INTEGER" if unique else "key BLOB, rid INTEGER, PRIMARY KEY (key, rid)"
        self.connection.execute(f"CREATE TABLE index_{cursor.lastrowid} ({key}) WITHOUT ROWID")

    def mark_multikey(self, collection: Collection, index: Index) -> None:
        """The caller's `collection` may be older than an earlier mark of the same transaction."""
        current = self.catalog.collections[collection.database, collection.name]
        if any(known.id == index.id and known.multikey for known in current.indexes):
            return
        self.connection.execute("UPDATE indexes SET multikey = 1 WHERE id = ?", (index.id,))
        self._changed()

    def drop_index(self, index: Index) -> None:
        self.connection.execute("DELETE FROM indexes WHERE id = ?", (index.id,))
        self.connection.execute(f"DROP TABLE {index.table}")
        self._changed()

    def drop(self, collection: Collection) -> None:
        for index in collection.indexes:
            self.connection.execute(f"DROP TABLE {index.table}")
        self.connection.execute(f"DROP TABLE {collection.table}")
        self.connection.execute("DELETE FROM indexes WHERE collection_id = ?", (collection.id,))
        self.connection.execute("DELETE FROM collections WHERE id = ?", (collection.id,))
        self._changed()


def load_catalog(connection: sqlite3.Connection) -> Catalog:
    (generation,) = connection.execute("SELECT generation FROM meta").fetchone()
    indexes: dict[int, list[Index]] = {}
    for row in connection.execute("SELECT id, collection_id, multikey, spec FROM indexes ORDER BY id"):
        index = Index.from_spec(row[0], bson.decode(row[3]), multikey=bool(row[2]))
        indexes.setdefault(row[1], []).append(index)
    collections = {
        (row[1], row[2]): Collection(row[0], row[1], row[2], tuple(indexes[row[0]]))
        for row in connection.execute("SELECT id, database, name FROM collections ORDER BY database, name")
    }
    return Catalog(generation, collections)


class Storage:
    """The open data file; a second server on the same file is refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_file = _lock(path.with_name(path.name + ".lock"))
        self._write_lock = threading.Lock()
        self._readers_lock = threading.Lock()
        self._idle_readers: list[sqlite3.Connection] = []
        self._closed = False
        self._writer = self._connect(cache_kib=_CACHE_KIB)
        self._prepare_file()
        self._catalog = load_catalog(self._writer)

    def _connect(self, cache_kib: int) -> sqlite3.Connection:
        # Connections travel between threads but are used by one at a time: under the lock, or owned by a cursor.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=30)
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        connection.execute("PRAGMA synchronous = FULL")
        # Pages as they were before a savepoint serve only to undo it: as a file they were half of all that was written.
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    def _prepare_file(self) -> None:
        writer = self._writer
        (application_id,) = writer.execute("PRAGMA application_id").fetchone()
        (tables,) = writer.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (version,) = writer.execute("PRAGMA user_version").fetchone()
        if tables and (application_id, version) != (_APPLICATION_ID, _FORMAT):
            raise ValueError(f"{self._path} is no data file of this version of the local document server")
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute(f"PRAGMA wal_autocheckpoint = {_LOG_BYTES // _PAGE_BYTES}")
        writer.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        writer.execute(f"PRAGMA user_version = {_FORMAT}")
        writer.executescript(_SCHEMA)

    @contextmanager
    def write(self) -> Iterator[WriteTransaction]:
        """One transaction: committed and on disk when the block is left, or nothing of it."""
        with self._write_lock:
            if self._closed:
                raise CommandError(1, "the server is shutting down")
            self._writer.execute("BEGIN IMMEDIATE")
            transaction = WriteTransaction(self._writer, self._catalog)
            try:
                yield transaction
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
            self._catalog = transaction.catalog

    def snapshot(self) -> Snapshot:
        """Open a read transaction; the caller gives it back with `release`."""
        with self._readers_lock:
            connection = self._idle_readers.pop() if self._idle_readers else None
        if connection is None:
            connection = self._connect(cache_kib=2_048)
        connection.execute("BEGIN")
        (generation,) = connection.execute("SELECT generation FROM meta").fetchone()
        catalog = self._catalog
        # Between a commit and its publication here the snapshot may be newer than the shared catalog.
        if catalog.generation != generation:
            catalog = load_catalog(connection)
        return Snapshot(connection, catalog)

    def release(self, snapshot: Snapshot) -> None:
        if snapshot.connection.in_transaction:
            snapshot.connection.execute("ROLLBACK")
        with self._readers_lock:
            if not self._closed and len(self._idle_readers) < _IDLE_READERS_MAX:
                self._idle_readers.append(snapshot.connection)
                return
        snapshot.connection.close()

    @contextmanager
    def read(self) -> Iterator[Snapshot]:
        snapshot = self.snapshot()
        try:
            yield snapshot
        finally:
            self.release(snapshot)

    def close(self) -> None:
        """Wait for the running write, then fold the log into the file."""
        with self._write_lock, self._readers_lock:
            self._closed = True
            for connection in self._idle_readers:
                connection.close()
            self._idle_readers.clear()
            self._writer.close()
            self._lock_file.close()


def _lock(path: Path) -> IO[str]:
    handle = path.open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise ValueError(f"{path} is held by another document server") from error
    return handle
