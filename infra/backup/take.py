"""Make a backup: a base backup of the whole cluster and its WAL up to the cut, the documents at the cut, and the system's files.

The base backup is copied before the cut and the documents after it, both while everything goes on.
"""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from infra.backup import documents, manifest
from infra.backup.cut import Cut, make_cut
from infra.backup.manifest import DOCUMENTS, FULL, Manifest
from infra.runtime.data_directory import DataDirectory
from infra.runtime.failures import CannotStart, RuntimeFailure
from infra.servers.postgres import SUPERUSER, PostgresServer
from shared.ids import new_id

BASE, WAL, SYSTEM = "base", "wal", "system"
SYSTEM_FILES = (
    *("secrets.json", "seeded", "seed.json", "admin-password", "postgres/provisioned.json"),
    # Of before the cut: later ones would vouch for records that the backup does not have.
    "audit-checkpoints.ndjson",
)
SYSTEM_FOLDERS = ("keys",)
_GZIP_LEVEL = 1
_SEGMENTS_PER_FILE_ID = 256
_SEGMENT_BYTES = 16 * 1024 * 1024
_ARCHIVED_SECONDS_MAX = 60.0
_BASE_BACKUP_SECONDS_MAX = 4 * 3600.0


@dataclass(frozen=True, slots=True)
class Source:
    """A running system of our own servers."""

    data: DataDirectory
    postgres: PostgresServer
    mongo_url: str


def take_full(source: Source, directory: Path) -> Manifest:
    """Write a backup that needs nothing else into `directory`, which must be new or empty.

    Raises:
        CannotStart: the directory cannot be used; nothing was done. RuntimeFailure: it did not come about; without a manifest the
        directory is no backup.
    """
    _prepare(directory)
    began = time.monotonic()
    with _explained(), documents.Snapshot(source.mongo_url) as snapshot, _kept_wal(source.postgres):
        snapshot.connect()
        _copy_system(source.data, directory / SYSTEM)
        first = _base_backup(source.postgres, directory / BASE)
        cut = make_cut(source.postgres, _new_name(), snapshot.pin)
        segments = _copy_wal(source.postgres, first, cut, directory / WAL)
        counts = snapshot.write(directory / documents.FOLDER)
    return _finish(directory, FULL, cut, began, segments, counts)


def take_documents(source: Source, directory: Path) -> Manifest:
    """Write a cut whose Postgres part is in the WAL archive: the documents, and the name of the restore point."""
    _prepare(directory)
    began = time.monotonic()
    with _explained(), documents.Snapshot(source.mongo_url) as snapshot:
        snapshot.connect()
        cut = make_cut(source.postgres, _new_name(), snapshot.pin)
        with source.postgres.connect() as connection:
            connection.execute("SELECT pg_switch_wal()")
        counts = snapshot.write(directory / documents.FOLDER)
        _wait_archived(source.postgres, cut)
    return _finish(directory, DOCUMENTS, cut, began, [], counts)


def _wait_archived(postgres: PostgresServer, cut: Cut) -> None:
    """Until the WAL up to the cut is in the archive: without it there would be nothing to restore."""
    name = segment_name(cut.timeline, segment_number(cut.lsn, ends=True))
    deadline = time.monotonic() + _ARCHIVED_SECONDS_MAX
    with postgres.connect() as connection:
        while connection.execute(_HAS_ARCHIVED, (name,)).fetchone() is None:
            if time.monotonic() > deadline:
                raise RuntimeFailure(
                    f"the WAL of this cut does not reach the archive; is its disk full? {name} is missing"
                )
            time.sleep(0.05)


_HAS_ARCHIVED = "SELECT 1 FROM pg_stat_archiver WHERE last_archived_wal >= %s"


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise CannotStart(f"{directory} is not empty")
    except OSError as error:
        raise CannotStart(f"{directory} is not writable: {error.strerror}") from error


def _new_name() -> str:
    return f"brokage-{new_id()}"


def _finish(
    directory: Path, kind: str, cut: Cut, began: float, segments: list[str], counts: dict[str, int]
) -> Manifest:
    made = Manifest(
        kind=kind,
        name=cut.name,
        taken_at=cut.at,
        timeline=cut.timeline,
        lsn=cut.lsn,
        pause_milliseconds=round(cut.pause_seconds * 1000, 1),
        seconds=round(time.monotonic() - began, 3),
        segments=segments,
        documents=counts,
        files=manifest.describe(directory),
    )
    manifest.write(directory, made)
    return made


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise RuntimeFailure(f"postgres ended the backup: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise RuntimeFailure(f"the backup cannot be written: {error}") from error


@contextmanager
def _kept_wal(postgres: PostgresServer) -> Iterator[None]:
    """Let the server keep its WAL from now on. The slot is temporary: it ends with this connection, however that ends."""
    with postgres.connect() as connection:
        name = f"brokage_{new_id().replace('-', '')}"
        connection.execute("SELECT pg_create_physical_replication_slot(%s, true, true)", (name,))
        yield


def _base_backup(postgres: PostgresServer, directory: Path) -> tuple[int, int]:
    """Copy the cluster; where its WAL begins: timeline and number of the segment."""
    command = [str(postgres.program("pg_basebackup")), "--pgdata", str(directory), "--format", "tar"]
    command += ["--wal-method", "stream", "--checkpoint", "fast", "--no-password", "--label", "brokage"]
    command += ["--compress", f"client-gzip:{_GZIP_LEVEL}"]
    command += ["--host", str(postgres.socket_directory), "--port", str(postgres.port), "--username", SUPERUSER]
    done = subprocess.run(
        command,
        env=postgres.client_environment(),
        capture_output=True,
        text=True,
        timeout=_BASE_BACKUP_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        raise RuntimeFailure(f"pg_basebackup failed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    [wal_range] = json.loads((directory / "backup_manifest").read_text(encoding="utf-8"))["WAL-Ranges"]
    # What it streamed itself ends before the cut; all of it is copied below.
    (directory / "pg_wal.tar.gz").unlink()
    return wal_range["Timeline"], segment_number(wal_range["Start-LSN"])


def segment_number(lsn: str, *, ends: bool = False) -> int:
    """Of the segment that holds the byte at `lsn`; with `ends` the one before it, where what ends there is."""
    high, low = lsn.split("/")
    return ((int(high, 16) << 32) + int(low, 16) - ends) // _SEGMENT_BYTES


def segment_name(timeline: int, number: int) -> str:
    return f"{timeline:08X}{number // _SEGMENTS_PER_FILE_ID:08X}{number % _SEGMENTS_PER_FILE_ID:08X}"


def _copy_wal(postgres: PostgresServer, first: tuple[int, int], cut: Cut, directory: Path) -> list[str]:
    """Copy the segments from the base backup's beginning to the cut; the last one is closed first."""
    with postgres.connect() as connection:
        connection.execute("SELECT pg_switch_wal()")
    timeline, number = first
    directory.mkdir()
    names = [segment_name(timeline, each) for each in range(number, segment_number(cut.lsn, ends=True) + 1)]
    for name in names:
        segment, copy = postgres.cluster / "pg_wal" / name, directory / f"{name}.gz"
        with segment.open("rb") as original, gzip.open(copy, "wb", _GZIP_LEVEL) as compressed:
            shutil.copyfileobj(original, compressed, 1024 * 1024)
    return names


def _copy_system(data: DataDirectory, directory: Path) -> None:
    """Passwords and keys: with others the databases could not be opened, and no token would be valid any more."""
    directory.mkdir(mode=0o700)
    for name in SYSTEM_FILES:
        if (data.path / name).is_file():
            (directory / name).parent.mkdir(exist_ok=True)
            shutil.copy2(data.path / name, directory / name)
    for name in SYSTEM_FOLDERS:
        if (data.path / name).is_dir():
            shutil.copytree(data.path / name, directory / name)
