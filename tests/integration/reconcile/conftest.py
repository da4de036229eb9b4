"""A populated system of these tests' own, on its own servers."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from reconcile_world import World, live

from infra.migrate import migrate_all
from infra.servers import DATABASES, EmbeddedServers
from processor.settings import Settings as ProcessorSettings
from shared.db import Database
from shared.testing.pump import Pump


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    # Not pytest's own directory: as root, Postgres runs as somebody else, who must be able to enter.
    directory = Path(tempfile.mkdtemp(prefix="brokage-reconcile-"))
    directory.chmod(0o711)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BROKAGE_")}
    try:
        with EmbeddedServers(directory, environ=clean) as servers:
            migrate_all(servers.environment)
            databases = {
                service: Database(servers.environment[variable], name="test", pool_size=2)
                for service, (_, variable, _) in DATABASES.items()
            }
            with Pump(servers.environment) as pump:
                settings = ProcessorSettings(processor_database_url=servers.environment[DATABASES["processor"][1]])
                world = World(servers, databases, pump, settings)
                live(world)
                yield world
            for database in databases.values():
                database.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
