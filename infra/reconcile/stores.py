"""The stores of all services, opened to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import Lock
from types import TracebackType
from typing import Self

from infra.reconcile.settings import Settings
from infra.servers.postgres import DATABASES
from shared.db import Connection, Database
from shared.mongo import MongoDatabase

POSTGRES = tuple(DATABASES)
"""Services with a Postgres database; each has an outbox."""
MONGO = ("auditor", "notifier")
_CONNECTIONS = 6
_SNAPSHOT = "; ".join(
    (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL transaction_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = 0",
        "SELECT 1",
    )
)


class Stores:
    """Opens with the first use what `environment` names.

    Raises (anywhere): `DatabaseUnavailable` when a store does not answer.
    """

    def __init__(self, environment: Mapping[str, str], settings: Settings) -> None:
        self.settings = settings
        self._environment = environment
        self._opening = Lock()
        self._databases: dict[str, Database] = {}
        self._mongo: dict[str, MongoDatabase] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for database in self._databases.values():
            database.close()
        for documents in self._mongo.values():
            documents.close()

    def database(self, service: str) -> Database:
        with self._opening:
            if service not in self._databases:
                _, variable, _ = DATABASES[service]
                self._databases[service] = Database(
                    self._environment[variable], name=f"{service} reconcile", pool_size=_CONNECTIONS
                )
            return self._databases[service]

    def documents(self, service: str) -> MongoDatabase:
        with self._opening:
            if service not in self._mongo:
                self._mongo[service] = MongoDatabase(self._environment["BROKAGE_MONGO_URL"], service, pool_size=2)
            return self._mongo[service]

    @contextmanager
    def snapshot(self, service: str) -> Iterator[Connection]:
        """A connection on which everything read is of one moment, that of its first statement, which this makes."""
        with self.database(service).read() as connection, connection.transaction():
            # In one message: between two of them the limit could end that they lift.
            connection.execute(_SNAPSHOT, prepare=False)
            yield connection

    @contextmanager
    def snapshots(self, *services: str) -> Iterator[tuple[Connection, ...]]:
        """One of each, taken one after the other in the order given."""
        with ExitStack() as stack:
            yield tuple(stack.enter_context(self.snapshot(service)) for service in services)
