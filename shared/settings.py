"""Settings come from the environment (prefix `BROKAGE_`), once per process. A service adds its own in its `settings.py`."""

from enum import StrEnum
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Profile(StrEnum):
    TEST = "test"
    DEV = "dev"
    DOCKER = "docker"
    PROD = "prod"


class ServiceSettings(BaseSettings):
    """What every service needs to know. Times are in seconds."""

    # Values are secrets more often than not (addresses hold passwords): an error at the start names the setting only.
    model_config = SettingsConfigDict(env_prefix="BROKAGE_", extra="ignore", frozen=True, hide_input_in_errors=True)

    profile: Profile = Profile.DEV
    redis_url: str = "redis://127.0.0.1:6379/0"
    broker_url: str | None = None
    mongo_url: str | None = None
    jwks_url: str | None = None
    key_dir: str | None = None
    # `1:<base64 of 32 bytes>,2:...`; without it the key directory has them (shared/encryption.py).
    field_keys: SecretStr | None = None
    # Likewise, for the seals on what goes through the broker (shared/messaging/seal.py).
    message_keys: SecretStr | None = None

    api_pool_size: int = 12
    worker_pool_size: int = 6

    # The delivery protocol's timers and sizes (docs/adr/0001-messaging.md). Tests shorten the timers.
    lanes: int = 2
    claim_events_max: int = 2000
    relay_lease_seconds: float = 15.0
    relay_sweep_seconds: float = 1.0
    relay_linger_seconds: float = 0.01
    relay_acknowledgement_seconds: float = 0.02
    relay_telling_seconds: float = 0.2
    acked_batches_kept_seconds: float = 24 * 3600
    processed_events_kept_seconds: float = 35 * 24 * 3600
    stale_after_seconds: float = 30 * 24 * 3600
    event_attempts_max: int = 3
    parked_ask_seconds: float = 60.0

    # How many events may wait for readers that move orders before new work is refused (shared/messaging/backlog.py).
    backlog_events_max: int = 50_000
    backlog_poll_seconds: float = 0.5

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        """Nothing: what is printed ends in a log."""
        return []

    @property
    def queue_url(self) -> str:
        return self.broker_url or self.redis_url
