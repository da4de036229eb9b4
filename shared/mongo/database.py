"""A service's Mongo database in one process: a client with bounded waits, and which errors pass."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeAlias

from pymongo import IndexModel, MongoClient
from pymongo.collection import Collection
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    DuplicateKeyError,
    ExecutionTimeout,
    OperationFailure,
    WTimeoutError,
)

from shared.db.engine import DatabaseUnavailable

Document: TypeAlias = dict[str, Any]
Indexes: TypeAlias = Mapping[str, Sequence[IndexModel]]

_DUPLICATE = 11000
_TRANSIENT = (ConnectionFailure, AutoReconnect, WTimeoutError, ExecutionTimeout)
_SELECTION_MS = 2_000
_SOCKET_MS = 10_000
_WRITE_MS = 5_000


class MongoDatabase:
    """One service's database.

    Every write is acknowledged by a majority and in its journal; every read sees only such writes, so that nothing a
    handler has found and acknowledged can be rolled back by a failover.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        pool_size: int = 10,
        indexes: Indexes | None = None,
        operation_seconds: float | None = None,
    ) -> None:
        """Connects with the first use, and not before: a process that serves several services starts without the one
        whose store is away. `indexes`, by collection, are made then as well.

        `operation_seconds` bounds each operation as a whole, the driver's own second attempt included, and a cursor from
        its first record to its last: for those whose caller waits. Without it a server that hangs holds 10 s at a time.
        """
        self.name = name
        self._missing_indexes = indexes or {}
        self._lock = threading.Lock()
        self._client: MongoClient[Document] = MongoClient(
            url,
            appname=f"brokage {name}",
            tz_aware=True,
            w="majority",
            journal=True,
            wTimeoutMS=_WRITE_MS,
            readConcernLevel="majority",
            maxPoolSize=pool_size,
            serverSelectionTimeoutMS=_SELECTION_MS,
            connectTimeoutMS=_SELECTION_MS,
            socketTimeoutMS=_SOCKET_MS,
            timeoutMS=None if operation_seconds is None else int(operation_seconds * 1_000),
        )
        self._database = self._client[name]

    def __getitem__(self, collection: str) -> Collection[Document]:
        if self._missing_indexes:
            self._ensure_indexes()
        return self._database[collection]

    def _ensure_indexes(self) -> None:
        with self._lock:
            for collection, models in self._missing_indexes.items():
                self._database[collection].create_indexes(list(models))
            self._missing_indexes = {}

    def ping(self) -> None:
        with self.reachable():
            self._client.admin.command("ping")
            self._ensure_indexes()

    def close(self) -> None:
        self._client.close()

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Errors that pass become `DatabaseUnavailable`, which callers get as 503."""
        try:
            yield
        except Exception as error:
            if is_transient(error):
                raise DatabaseUnavailable(self.name) from error
            raise


def is_transient(error: BaseException) -> bool:
    """Whether the same again may succeed: the server is away, fails over, or was too slow. What was written by then is
    not known, so only what is idempotent may be repeated."""
    if isinstance(error, _TRANSIENT):
        return True
    if isinstance(error, BulkWriteError) and not (error.details or {}).get("writeErrors"):
        return True  # written, but not confirmed by a majority in time
    return isinstance(error, OperationFailure) and error.has_error_label("RetryableWriteError")


def is_duplicate(error: Exception) -> bool:
    """Whether a write failed because of nothing but unique keys that are taken."""
    if isinstance(error, DuplicateKeyError):
        return True
    return isinstance(error, BulkWriteError) and only_duplicates(error)


def only_duplicates(error: BulkWriteError) -> bool:
    details: Any = error.details or {}
    failed = details.get("writeErrors", [])
    unconfirmed = details.get("writeConcernErrors", [])
    return not unconfirmed and bool(failed) and all(entry.get("code") == _DUPLICATE for entry in failed)


@lru_cache(maxsize=1024)
def milliseconds(moment: datetime) -> datetime:
    """`moment` as it will be read back: the store keeps whole milliseconds."""
    # Cached: the events of one transaction have one time.
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
