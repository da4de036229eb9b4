"""The background sweep: removes expired documents and closes what clients left open. Readers hide the former already."""

import contextlib
import ctypes
import sqlite3
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from infra.mongo_server.catalog import Collection, Index
from infra.mongo_server.documents import Row, delete, utc_now
from infra.mongo_server.keys import descending, encode
from infra.mongo_server.storage import Storage

SWEEP_SECONDS: Final = 10.0
_BATCH: Final = 500  # per transaction, so that writers wait only briefly


def sweep_until(stop: threading.Event, storage: Storage, close_idle: Callable[[], None], seconds: float) -> None:
    while not stop.wait(seconds):
        try:
            close_idle()
            sweep(storage)
            _return_memory()
        except sqlite3.Error as error:  # a full disk, say: documents stay hidden, the next sweep tries again
            print(f"sweep: {error}", file=sys.stderr, flush=True)


def _return_memory() -> None:
    """Give back what large messages left in the allocator's pools; glibc keeps it otherwise, for every thread."""
    with contextlib.suppress(AttributeError, OSError):  # another C library: nothing to ask
        ctypes.CDLL(None).malloc_trim(0)


def sweep(storage: Storage) -> int:
    """Remove everything that has expired; returns how many documents that were."""
    with storage.read() as snapshot:
        expiring = [
            (collection, index) for collection in snapshot.catalog.collections.values() for index in collection.expiring
        ]
    removed = 0
    for collection, index in expiring:
        while (batch := _sweep_batch(storage, collection, index)) > 0:
            removed += batch
    return removed


def _sweep_batch(storage: Storage, known: Collection, known_index: Index) -> int:
    with storage.write() as transaction:
        collection = transaction.catalog.find(known.database, known.name)
        if collection is None or known_index.id not in {index.id for index in collection.indexes}:
            return 0
        now = utc_now()
        found = _expired(transaction.connection, collection, known_index)
        doomed = {row.rid: row for row in found if collection.hides(row.doc, now)}
        for row in doomed.values():
            delete(transaction, collection, row)
        return len(doomed)


def _expired(connection: sqlite3.Connection, collection: Collection, index: Index) -> list[Row]:
    """Rows whose date lies in the expired stretch of the index."""
    assert index.expire_after_seconds is not None
    limit = encode(utc_now() - timedelta(seconds=index.expire_after_seconds))
    low, high = limit[:1], limit + b"\xff"
    if index.fields[0][1] < 0:
        low, high = descending(limit), descending(limit[:1]) + b"\xff"
    statement = (
        f"SELECT d.rid, d.body FROM {index.table} i CROSS JOIN {collection.table} d ON d.rid = i.rid"
        f" WHERE i.key >= ? AND i.key < ? LIMIT {_BATCH}"
    )
    return [Row(rid, body) for rid, body in connection.execute(statement, (low, high))]
