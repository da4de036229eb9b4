"""A directory of scheduled backups: full ones in `daily`, cuts between them in `hourly`, the WAL archive in `wal`."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from infra.backup import manifest
from infra.backup.manifest import Manifest, shown
from infra.backup.names import DAILY, HOURLY, MANIFEST, WAL, directories, made_at
from infra.runtime.failures import CannotStart


def backups(folder: Path) -> Iterator[tuple[Path, Manifest]]:
    """Those in `folder` that are whole, oldest first."""
    for directory in directories(folder):
        if (directory / MANIFEST).is_file():
            yield directory, manifest.read(directory)


def is_repository(directory: Path) -> bool:
    return (directory / DAILY).is_dir()


# -- what to restore -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """Restore `base`, go on with its WAL and that in `archive` to the restore point of `cut`, or to the moment `to`; the
    documents are those of `cut`."""

    base: Path
    cut: Path
    archive: Path | None
    to: datetime | None

    @property
    def is_exact(self) -> bool:
        """Whether documents and databases are of one moment."""
        return self.to is None


def plan(directory: Path, to: datetime | None) -> Plan:
    """What to restore from a backup, or from a directory of scheduled ones.

    Args:
        to: a moment; None: the backup's own cut, or the last one of the directory.

    Raises:
        CannotStart: there is no backup to begin with.
    """
    if is_repository(directory):
        return _from_repository(directory, to)
    found = manifest.read(directory)
    if found.kind != manifest.FULL:
        raise CannotStart(f"{directory} holds documents only; restore from {directory.parent.parent} instead")
    if to is None:
        return Plan(directory, directory, None, None)
    if to < found.taken_at:
        raise CannotStart(f"{directory} is of {shown(found.taken_at)}; earlier moments need an earlier backup")
    home = directory.parent.parent
    if not is_repository(home):
        raise CannotStart(f"{directory} has no WAL beyond its own moment, {shown(found.taken_at)}")
    return _from_repository(home, to, base=directory)


def _from_repository(directory: Path, to: datetime | None, base: Path | None = None) -> Plan:
    full = list(backups(directory / DAILY))
    cuts = sorted([*full, *backups(directory / HOURLY)], key=lambda each: each[1].taken_at)
    before = [each for each in full if to is None or each[1].taken_at <= to]
    if not before:
        earliest = f"the first is of {shown(full[0][1].taken_at)}" if full else "there is none at all"
        raise CannotStart(f"{directory} has no full backup so early: {earliest}")
    cut = [path for path, found in cuts if to is None or found.taken_at <= to][-1]
    if to is None:
        moment = manifest.read(cut).taken_at
        before = [each for each in before if each[1].taken_at <= moment]
    return Plan(base or before[-1][0], cut, directory / WAL, to)


# -- retention -----------------------------------------------------------------------------------------------------------


def prune(directory: Path, *, full_kept: timedelta, wal_kept: timedelta, now: datetime) -> list[Path]:
    """Delete what is older than it is to be kept, and what was never finished; what was deleted.

    The last full backup stays, however old. WAL and cuts stay as far back as the full backup that the oldest moment of the window
    begins with.
    """
    full = directories(directory / DAILY)
    last = max((each for each in full if made_at(each)), default=None)
    gone = [each for each in full if each != last and _is_over(each, now - full_kept)]
    gone += [each for each in directories(directory / HOURLY) if _is_over(each, now - wal_kept)]
    for each in gone:
        shutil.rmtree(each)
    return gone + _prune_wal(directory, now - wal_kept)


def _is_over(directory: Path, limit: datetime) -> bool:
    made = made_at(directory)
    # One without a manifest may be in the making; a day later it is not.
    return made < limit if made else time.time() - directory.stat().st_mtime > 24 * 3600


def _prune_wal(directory: Path, limit: datetime) -> list[Path]:
    older = [found for _, found in backups(directory / DAILY) if found.taken_at < limit]
    if not older:
        return []
    begins = older[-1].segments[-1]
    gone = [
        file
        for file in sorted((directory / WAL).glob("*.gz"))
        if file.name.endswith(".gz") and file.stem[8:24] < begins[8:] and file.stat().st_mtime < limit.timestamp()
    ]
    for file in gone:
        file.unlink()
    return gone
