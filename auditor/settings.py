"""What only the auditor needs to know."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    """Times in seconds. `audit_lease_seconds`: after that long a writer that says nothing has lost the chain to others;
    they wait a little longer than that for it.

    `audit_checkpoint_url`: where signed checkpoints go (auditor/checkpoints.py); without it none are taken.
    `audit_archive_dir`: where records older than `audit_kept_seconds` go; without it they stay where they are.
    `audit_key_dir`: the Ed25519 keys that sign both; default is `audit` in the key directory.
    """

    audit_lease_seconds: float = 2.0
    audit_lease_wait_seconds: float = 4.0
    audit_intake_poll_seconds: float = 0.3
    audit_checkpoint_url: str | None = None
    audit_checkpoint_seconds: float = 60.0
    audit_checkpoint_timeout_seconds: float = 5.0
    audit_key_dir: str | None = None
    audit_archive_dir: str | None = None
    audit_archive_seconds: float = 3600.0
    audit_archive_records_max: int = 20_000
    audit_kept_seconds: float = 400 * 24 * 3600.0
    telemetry_poll_seconds: float = 1.0
    telemetry_kept_seconds: float = 7 * 24 * 3600.0

    @property
    def database_url(self) -> str:
        assert self.mongo_url, "the auditor needs BROKAGE_MONGO_URL"
        return self.mongo_url

    @property
    def audit_keys(self) -> Path:
        directory = self.audit_key_dir or (self.key_dir and str(Path(self.key_dir) / "audit"))
        assert directory, "signing needs BROKAGE_AUDIT_KEY_DIR or BROKAGE_KEY_DIR"
        return Path(directory)

    @model_validator(mode="after")
    def _kept_longer_than_repeats_come(self) -> Self:
        if self.audit_kept_seconds < self.processed_events_kept_seconds:
            raise ValueError("a repeated event must find its record: keep the trail as long as processed events")
        return self
