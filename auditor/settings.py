"""What only the auditor needs to know."""

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    """Times in seconds. `audit_lease_seconds`: after that long a writer that says nothing has lost the chain to others;
    they wait a little longer than that for it."""

    audit_lease_seconds: float = 2.0
    audit_lease_wait_seconds: float = 4.0
    audit_intake_poll_seconds: float = 0.3
    telemetry_poll_seconds: float = 1.0
    telemetry_kept_seconds: float = 7 * 24 * 3600.0

    @property
    def database_url(self) -> str:
        assert self.mongo_url, "the auditor needs BROKAGE_MONGO_URL"
        return self.mongo_url
