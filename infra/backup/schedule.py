"""The scheduled backups: when one is due, making it, and what the last ones came to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.backup import names
from infra.backup.settings import BackupSettings
from infra.runtime.data_directory import DataDirectory, write_private
from infra.runtime.process import ManagedProcess

if TYPE_CHECKING:
    from infra.backup.take import Source

STATE = "backup.json"
COMMAND = "backup-scheduled"
AGAIN_SECONDS = 300.0
"""How long after a failure the next try comes."""


def is_due(settings: BackupSettings, now: datetime) -> str | None:
    """Which folder a backup is due for; None: none yet. A full one is a cut too."""
    assert settings.directory is not None
    full = names.newest(settings.directory / names.DAILY)
    if full is None or now - full >= timedelta(seconds=settings.full_seconds):
        return names.DAILY
    cut = names.newest(settings.directory / names.HOURLY) or full
    if now - max(cut, full) >= timedelta(seconds=settings.cut_seconds):
        return names.HOURLY
    return None


class BackupTimer:
    """Starts the backup command whenever one is due, in a process of its own. `look` is called now and then."""

    def __init__(self, settings: BackupSettings, make_process: Callable[[], ManagedProcess]) -> None:
        self._settings = settings
        self._make_process = make_process
        self._not_before = 0.0
        self.process: ManagedProcess | None = None

    def look(self) -> None:
        if self._settings.directory is None or (self.process and self.process.alive):
            return
        if time.monotonic() < self._not_before or is_due(self._settings, datetime.now(UTC)) is None:
            return
        # Should it fail, or be too short of a period to be seen as done, the next comes later.
        self._not_before = time.monotonic() + min(AGAIN_SECONDS, self._settings.cut_seconds)
        if self.process is None:
            self.process = self._make_process()
        self.process.spawn()


def run(source: Source, settings: BackupSettings) -> dict[str, Any] | None:
    """Make the backup that is due, delete what is over, and note both in the data directory; None if none is due."""
    from infra.backup import repository, take
    from infra.runtime.failures import RuntimeFailure

    assert settings.directory is not None
    now = datetime.now(UTC)
    folder = is_due(settings, now)
    if folder is None:
        return None
    if folder == names.HOURLY and _is_new_line(source, settings.directory):
        folder = names.DAILY
    directory = settings.directory / folder / names.new_name(now)
    try:
        made = (take.take_full if folder == names.DAILY else take.take_documents)(source, directory)
    except RuntimeFailure as failure:
        note(source.data, {"failed": {"at": now.isoformat(), "reason": str(failure)}})
        raise
    done = {
        "directory": str(directory),
        "taken_at": made.taken_at.isoformat(),
        "bytes": made.bytes,
        "seconds": made.seconds,
        "pause_milliseconds": made.pause_milliseconds,
    }
    kept = {"full_kept": timedelta(seconds=settings.full_kept_seconds)}
    kept["wal_kept"] = timedelta(seconds=settings.wal_kept_seconds)
    deleted = repository.prune(settings.directory, **kept, now=now)
    note(source.data, {folder: done, "failed": None})
    return {"kind": made.kind, "deleted": len(deleted), **done}


def _is_new_line(source: Source, directory: Path) -> bool:
    """Whether the cluster was restored since the last full backup: no WAL leads from that one to the present."""
    from infra.backup import repository

    *_, (_, last) = repository.backups(directory / names.DAILY)
    with source.postgres.connect() as connection:
        row = connection.execute("SELECT timeline_id FROM pg_control_checkpoint()").fetchone()
    return row is not None and last.timeline != row[0]


def note(data: DataDirectory, news: dict[str, Any]) -> None:
    write_private(data.path / STATE, json.dumps(state(data.path) | news, indent=1))


def state(data_dir: Path) -> dict[str, Any]:
    """The last scheduled backups: `daily`, `hourly` and `failed`, as far as there are any."""
    try:
        found = json.loads((data_dir / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """The state for people."""
    for folder in (names.DAILY, names.HOURLY):
        if last := found.get(folder):
            size = f"{last['bytes'] / 1e6:.1f} MB in {last['seconds']:.1f} s"
            yield f"{'backup ' + folder:<28} {last['taken_at'][:19]}Z, {size}, pause {last['pause_milliseconds']} ms"
    if failed := found.get("failed"):
        yield f"{'backup failed':<28} {failed['at'][:19]}Z: {failed['reason']}"
