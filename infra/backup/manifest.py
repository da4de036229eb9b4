"""What a backup says of itself. The manifest is written last: a directory without one is no backup."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from infra.backup.names import MANIFEST
from infra.runtime.data_directory import write_private
from infra.runtime.failures import CannotStart

FORMAT = 1
FULL, DOCUMENTS = "full", "documents"
_BLOCK = 1024 * 1024


class File(msgspec.Struct, frozen=True):
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`kind` is `full`, or `documents` for a cut whose Postgres part is in the WAL archive. `name` is that of the restore point.

    `segments` are the WAL files from the beginning of the base backup to the cut; `documents` counts by collection.
    """

    format: int = FORMAT
    kind: str
    name: str
    taken_at: datetime
    timeline: int
    lsn: str
    pause_milliseconds: float
    seconds: float
    segments: list[str]
    documents: dict[str, int]
    files: dict[str, File]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files.values())


def write(directory: Path, manifest: Manifest) -> None:
    write_private(directory / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)).decode())


def read(directory: Path) -> Manifest:
    """
    Raises:
        CannotStart: there is no backup, or not one that this version understands.
    """
    try:
        manifest = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise CannotStart(f"{directory} is no backup: it has no {MANIFEST}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise CannotStart(f"{directory / MANIFEST} cannot be read: {error}") from error
    if manifest.format != FORMAT:
        raise CannotStart(f"{directory} is of format {manifest.format}; this version reads format {FORMAT}")
    return manifest


def describe(directory: Path) -> dict[str, File]:
    """Every file in the directory but the manifest, by its relative path."""
    return {
        path.relative_to(directory).as_posix(): File(path.stat().st_size, digest(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / MANIFEST
    }


def problems(directory: Path, manifest: Manifest) -> Iterator[str]:
    """What is missing, changed, or too much."""
    for name, file in manifest.files.items():
        path = directory / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != file.bytes or digest(path) != file.sha256:
            yield f"{name} is not what was written"
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    yield from (f"{name} was not there" for name in sorted(found - set(manifest.files) - {MANIFEST}))


def digest(path: Path) -> str:
    summed = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            summed.update(block)
    return summed.hexdigest()


def shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
