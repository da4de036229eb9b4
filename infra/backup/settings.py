"""How often backups are made and how long they are kept. Read by the supervisor, so it imports nothing large."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from infra.runtime.failures import CannotStart

PREFIX = "BROKAGE_BACKUP_"
_DAY = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """Times in seconds. Without a directory nothing is scheduled and no WAL is archived. Source: S4, Backup Strategy."""

    directory: Path | None = None
    full_seconds: float = _DAY
    cut_seconds: float = 3600.0
    wal_seconds: float = 3600.0
    full_kept_seconds: float = 30 * _DAY
    wal_kept_seconds: float = 7 * _DAY

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> BackupSettings:
        """
        Raises:
            CannotStart: a value is no number of seconds.
        """
        given = {field.name: environ.get(PREFIX + field.name.upper(), "") for field in fields(cls)}
        directory = environ.get("BROKAGE_BACKUP_DIR", "")
        try:
            times = {name: float(value) for name, value in given.items() if value and name != "directory"}
        except ValueError as error:
            raise CannotStart(f"a setting {PREFIX}..._SECONDS is no number: {error}") from None
        return cls(directory=Path(directory).expanduser().resolve() if directory else None, **times)

    @property
    def wal_directory(self) -> Path:
        assert self.directory is not None
        return self.directory / "wal"
