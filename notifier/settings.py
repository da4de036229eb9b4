"""What only the notifier needs to know."""

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    """`smtp_url`: `smtp://user:password@host:port` or `smtps://...`; without it no e-mail is sent. Times in seconds.

    The pause before attempt n+1 of an e-mail is `email_pause_seconds * 4 ** (n - 1)`, at most `email_pause_seconds_max`.
    """

    smtp_url: str | None = None
    smtp_from: str = "Brokage <no-reply@brokage.invalid>"
    smtp_timeout_seconds: float = 10.0
    smtp_circuit_failures_max: int = 5
    smtp_circuit_open_seconds: float = 30.0
    email_attempts_max: int = 8
    email_pause_seconds: float = 30.0
    email_pause_seconds_max: float = 6 * 3600.0
    email_lease_seconds: float = 60.0
    email_poll_seconds: float = 1.0
    notifications_kept_seconds: float = 90 * 24 * 3600.0

    # How long a request waits for a MongoDB that hangs before its 503.
    api_operation_seconds: float = 2.5

    @property
    def database_url(self) -> str:
        assert self.mongo_url, "the notifier needs BROKAGE_MONGO_URL"
        return self.mongo_url
