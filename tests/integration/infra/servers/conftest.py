"""Servers of these tests' own: they are killed, stopped and started again."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.servers import EmbeddedServers


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory that everyone may pass through, unlike pytest's own: as root, Postgres runs as somebody else."""
    directory = Path(tempfile.mkdtemp(prefix="brokage-servers-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def _embedded(place: Path) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(place / "first", environ={}) as servers:
        yield servers


@pytest.fixture
def embedded(_embedded: EmbeddedServers) -> EmbeddedServers:
    """All three running, whatever the test before did to them."""
    if not all(process.alive for process in _embedded.processes):
        _embedded.stop()
        _embedded.start()
    return _embedded
