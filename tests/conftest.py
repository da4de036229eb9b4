"""Real servers for the tests that ask for them, started once per run. A run of unit tests alone starts none."""

import itertools
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from xdist.scheduler import LoadScopeScheduling

from infra.migrate import migrate_all
from infra.runtime import collector
from infra.servers import DATABASES, EmbeddedServers, PostgresServer
from shared import encryption
from shared.auth import keys
from shared.messaging import seal

# A password costs a microsecond here; what it costs in earnest is tested where it matters.
CHEAP_PASSWORDS = {"BROKAGE_ARGON2_TIME_COST": "1", "BROKAGE_ARGON2_MEMORY_KIB": "64"}


class ByServers(LoadScopeScheduling):
    """Of several processes, one runs all tests of a file, and one all that share the system of `tests/e2e`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/e2e" if file.startswith("tests/e2e/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False
    return ByServers(config, log)


_LONG = ("tests/e2e/", "tests/races/", "tests/faults/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that at the end no process is left alone with it."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


def pytest_collection_finish() -> None:
    """As in our own processes: else the tests pay again and again for looking at all that was ever imported."""
    collector.tune()


@dataclass
class Servers:
    """The servers of this run. `env` holds every BROKAGE_* setting; its four databases are migrated and shared by all tests."""

    embedded: EmbeddedServers
    env: Mapping[str, str]
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def postgres(self) -> PostgresServer:
        assert self.embedded.postgres is not None
        return self.embedded.postgres

    def make_templates(self) -> None:
        """Copy the four databases while they are migrated, empty, and nobody is connected to them."""
        for service, (database, _, _) in DATABASES.items():
            self._clone(service, database, _template(service))

    def fresh_database(self, service: str) -> str:
        """The URL of a new database, migrated and empty, of the role `service`; it lasts as long as the run."""
        name = f"{service}_{next(self._numbers)}"
        self._clone(service, _template(service), name)
        return self.postgres.url_of(service, name)

    def _clone(self, service: str, source: str, name: str) -> None:
        with self.postgres.connect() as connection:
            for statement in (
                "CREATE DATABASE {name} TEMPLATE {source} OWNER {service}",
                # A copy does not take the rights along.
                "REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC",
            ):
                connection.execute(
                    sql.SQL(statement).format(
                        name=sql.Identifier(name), source=sql.Identifier(source), service=sql.Identifier(service)
                    )
                )


def _template(service: str) -> str:
    return f"template_{service}"


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    # Not pytest's own directory: as root, Postgres runs as somebody else, who must be able to enter.
    directory = Path(tempfile.mkdtemp(prefix="brokage-test-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def servers(servers_directory: Path) -> Iterator[Servers]:
    """Postgres, Valkey and Mongo with migrated databases and a signing key; `os.environ` has their settings until the end.

    Never the servers a developer's environment names: tests empty what they are given.
    """
    with ExitStack() as stack:
        embedded = stack.enter_context(EmbeddedServers(servers_directory / "data", environ={}))
        key_directory = Path(embedded.environment["BROKAGE_KEY_DIR"])
        keys.ensure(key_directory)
        encryption.ensure(key_directory)
        seal.ensure(key_directory)
        servers = Servers(embedded, embedded.environment | CHEAP_PASSWORDS | {"BROKAGE_PROFILE": "test"})
        migrate_all(servers.env)
        servers.make_templates()
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in servers.env.items():
            patch.setenv(name, value)
        yield servers
        # Without the checkpoint that it makes else: what is in it is deleted.
        servers.postgres.process.send(signal.SIGQUIT)


@pytest.fixture(scope="session")
def fresh_database(servers: Servers) -> Callable[[str], str]:
    """`fresh_database("asset_service")` is the URL of a database of one's own, made in a tenth of a second, at any scope."""
    return servers.fresh_database
