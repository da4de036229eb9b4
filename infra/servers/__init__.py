"""Real PostgreSQL, Valkey and MongoDB for a local run and for tests, all in one data directory.

with EmbeddedServers(directory) as servers:
    servers.environment["BROKAGE_ORDERS_DATABASE_URL"]
    servers.postgres.kill()
    servers.postgres.restart()
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.backup.settings import BackupSettings
from infra.runtime.data_directory import DataDirectory
from infra.runtime.process import ManagedProcess, stop_together
from infra.servers.base import Server
from infra.servers.mongo import MongoServer
from infra.servers.postgres import DATABASES, Archive, PostgresServer
from infra.servers.valkey import ValkeyServer

__all__ = ["DATABASES", "EmbeddedServers", "MongoServer", "PostgresServer", "ValkeyServer"]

DATABASE_VARIABLES = tuple(variable for _, variable, _ in DATABASES.values())


def archive(environ: Mapping[str, str]) -> Archive | None:
    """Where WAL is archived: in the directory of the scheduled backups, if there is one."""
    settings = BackupSettings.of(environ)
    if settings.directory is None:
        return None
    settings.directory.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    return Archive(settings.wal_directory, int(settings.wal_seconds))


class EmbeddedServers:
    """The servers whose URL the environment does not set already; one that is replaced is None.

    As root the directory must be reachable for an unprivileged user: not below a directory of mode 0700 such as
    pytest's `tmp_path`.
    """

    def __init__(self, data_dir: Path | DataDirectory, environ: Mapping[str, str] | None = None) -> None:
        self.data = data_dir if isinstance(data_dir, DataDirectory) else DataDirectory(data_dir)
        self._owns_directory = not isinstance(data_dir, DataDirectory)
        given = os.environ if environ is None else environ
        self._given = {key: value for key, value in given.items() if key.startswith("BROKAGE_") and value}
        self.postgres: PostgresServer | None = None
        self.valkey: ValkeyServer | None = None
        self.mongo: MongoServer | None = None
        self.environment: dict[str, str] = {}

    @property
    def all(self) -> list[Server]:
        return [server for server in (self.postgres, self.valkey, self.mongo) if server]

    @property
    def processes(self) -> list[ManagedProcess]:
        return [server.process for server in self.all]

    def start(self, report: Callable[[str], None] = lambda name: None) -> dict[str, str]:
        """Start what is needed, all at once, and return every BROKAGE_* setting: the URLs, the key and the data directory.

        Args:
            report: called with the name of each server once it serves.

        Raises:
            CannotStart: the directory or an account does not allow it; nothing runs.
            StartFailed: a server did not come up; the others have been stopped.
        """
        if self._owns_directory:
            self.data.open()
            self.data.stop_orphans()
        try:
            self._create()
            # Postgres last: making its cluster takes a second, in which the others come up.
            for server in reversed(self.all):
                server.prepare()
                server.spawn()
            for server in self.all:
                server.wait_ready()
                report(server.name)
        except BaseException:
            self.stop()
            raise
        self.environment = self._environment()
        return self.environment

    def _create(self) -> None:
        if any(variable not in self._given for variable in DATABASE_VARIABLES):
            self.postgres = PostgresServer(self.data, archive(self._given))
            self.postgres.stop_orphan()
        if "BROKAGE_REDIS_URL" not in self._given:
            self.valkey = ValkeyServer(self.data)
        if "BROKAGE_MONGO_URL" not in self._given:
            self.mongo = MongoServer(self.data)

    def _environment(self) -> dict[str, str]:
        own: dict[str, str] = {"BROKAGE_KEY_DIR": str(self.data.keys)}
        if self.postgres:
            own |= {variable: self.postgres.url(role) for role, (_, variable, _) in DATABASES.items()}
        if self.valkey:
            own["BROKAGE_REDIS_URL"] = self.valkey.url
        if self.mongo:
            own["BROKAGE_MONGO_URL"] = self.mongo.url
        # The directory is a fact: what a variable of the caller says of another one must not reach the services.
        own |= self._given | {"BROKAGE_DATA_DIR": str(self.data.path)}
        return {"BROKAGE_BROKER_URL": own["BROKAGE_REDIS_URL"]} | own

    def stop(self) -> None:
        """Stop all of them and give the directory up; data stays."""
        stop_together(self.processes)
        if self._owns_directory:
            self.data.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
