"""What scheduled backups are called. Read by the supervisor, so it imports nothing large."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

MANIFEST = "manifest.json"
DAILY, HOURLY, WAL = "daily", "hourly", "wal"
_NAME = "%Y-%m-%dT%H%M%S.%fZ"


def new_name(moment: datetime) -> str:
    """A directory's name, by which they sort as they were made."""
    return moment.astimezone(UTC).strftime(_NAME)


def made_at(directory: Path) -> datetime | None:
    """When a scheduled backup was begun, by its name; None if it is none or was not finished."""
    if not (directory / MANIFEST).is_file():
        return None
    try:
        return datetime.strptime(directory.name, _NAME).replace(tzinfo=UTC)
    except ValueError:
        return None


def newest(folder: Path) -> datetime | None:
    """When the last backup in `folder` was begun."""
    made = [moment for each in directories(folder) if (moment := made_at(each))]
    return max(made, default=None)


def directories(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []
