"""A populated system of these tests' own that archives its WAL. Postgres is restored elsewhere, beside it."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "reconcile"))  # the same life as the proof's own tests

from backup_world import opened
from reconcile_world import World, live

from infra.backup.names import DAILY
from infra.backup.take import Source, take_full
from infra.migrate import migrate_all
from infra.runtime.data_directory import DataDirectory
from infra.servers import EmbeddedServers


@pytest.fixture(autouse=True)
def _no_servers_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' settings may name servers of theirs, and to those nothing is restored."""
    for name in [name for name in os.environ if name.startswith("BROKAGE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    # Not pytest's own directory: as root, Postgres runs as somebody else, who must be able to enter.
    directory = Path(tempfile.mkdtemp(prefix="brokage-backup-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def repository(place: Path) -> Path:
    return place / "backups"


@pytest.fixture(scope="session")
def world(place: Path, repository: Path) -> Iterator[World]:
    environ = {"BROKAGE_BACKUP_DIR": str(repository)}
    with EmbeddedServers(place / "origin", environ=environ) as servers:
        migrate_all(servers.environment)
        with opened(servers) as world:
            live(world)
            yield world


@pytest.fixture(scope="session")
def source(world: World) -> Source:
    assert world.servers.postgres is not None
    return Source(world.servers.data, world.servers.postgres, world.environment["BROKAGE_MONGO_URL"])


@pytest.fixture(scope="session")
def full(source: Source, repository: Path) -> Path:
    """The full backup with which restores begin."""
    directory = repository / DAILY / "full"
    take_full(source, directory)
    return directory


@pytest.fixture
def target(place: Path, request: pytest.FixtureRequest) -> Iterator[DataDirectory]:
    directory = place / f"target-{request.node.name}"
    yield DataDirectory(directory)
    shutil.rmtree(directory, ignore_errors=True)
