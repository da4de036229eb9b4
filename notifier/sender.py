"""The e-mails that are due, sent at least once each, with the same Message-ID on every attempt.

The intent is stored before; an attempt is counted before it is made; its outcome is stored after. Nothing is held open
in the store while the mail server is talked to.
"""

import smtplib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime, parseaddr
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from notifier import documents
from notifier.channels.channel import NO_ADDRESS
from notifier.channels.email import refusal
from notifier.settings import Settings
from shared.breaker import CircuitBreaker, CircuitOpen
from shared.clock import utc_now
from shared.db.engine import DatabaseUnavailable
from shared.faults import fault
from shared.logging import logger
from shared.mongo import Document, MongoDatabase, milliseconds

log = logger(__name__)
_FAILURES = (smtplib.SMTPException, OSError)
_ROUND_MAX = 100


class InsecureSmtp(Exception):
    """The URL has a password, and the mail server offers no encryption to send it under."""


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """A mail server as `BROKAGE_SMTP_URL` names it."""

    host: str
    port: int
    username: str | None
    password: str | None
    implicit_tls: bool
    timeout_seconds: float

    @classmethod
    def from_url(cls, url: str, timeout_seconds: float) -> "SmtpServer":
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise ValueError("BROKAGE_SMTP_URL must look like smtp://user:password@host:port or smtps://...")
        return cls(
            host=parts.hostname,
            port=parts.port or (465 if parts.scheme == "smtps" else 25),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            implicit_tls=parts.scheme == "smtps",
            timeout_seconds=timeout_seconds,
        )

    @contextmanager
    def session(self) -> Iterator[smtplib.SMTP]:
        """A connection, encrypted where the server can, signed in where the URL says so."""
        context = ssl.create_default_context()
        if self.implicit_tls:
            client: smtplib.SMTP = smtplib.SMTP_SSL(self.host, self.port, timeout=self.timeout_seconds, context=context)
        else:
            client = smtplib.SMTP(self.host, self.port, timeout=self.timeout_seconds)
        with client:
            client.ehlo()
            encrypted = self.implicit_tls
            if not encrypted and client.has_extn("starttls"):
                client.starttls(context=context)
                client.ehlo()
                encrypted = True
            if self.username is not None:
                if not encrypted and not _is_loopback(self.host):
                    raise InsecureSmtp(self.host)
                client.login(self.username, self.password or "")
            yield client


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class EmailSender:
    """A loop of the relay process. Any number may run: each e-mail is claimed with a lease."""

    name = "notifier e-mail"

    def __init__(self, database: MongoDatabase, settings: Settings) -> None:
        assert settings.smtp_url is not None
        self._database = database
        self._settings = settings
        self._server = SmtpServer.from_url(settings.smtp_url, settings.smtp_timeout_seconds)
        # What ends a whole round; what is wrong with one e-mail does not get this far.
        self._circuit = CircuitBreaker(
            "smtp",
            failures=(*_FAILURES, InsecureSmtp),
            failures_max=settings.smtp_circuit_failures_max,
            open_seconds=settings.smtp_circuit_open_seconds,
        )

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(self._settings.email_poll_seconds):
            try:
                fault("notifier.due")
                while self.send_due(stop):
                    pass
            except DatabaseUnavailable:
                log.warning("e-mails wait for the database")

    def send_due(self, stop: threading.Event) -> int:
        """One round: at most 100 e-mails over one connection; how many were attempted.

        When the connection itself fails only the e-mail in hand counts as an attempt, and the round ends. While the
        circuit is open none is claimed, so an outage costs no e-mail its attempts.
        """
        if self._circuit.refuses:
            return 0
        sent = 0
        with self._database.reachable():
            first = self._claim()
            if first is None:
                return 0
            try:
                with self._circuit.call(), self._server.session() as session:
                    claimed: Document | None = first
                    while claimed is not None:
                        first = claimed
                        self._attempt(session, claimed)
                        sent += 1
                        claimed = self._claim() if sent < _ROUND_MAX and not stop.is_set() else None
            except (*_FAILURES, InsecureSmtp, CircuitOpen) as error:
                self._retry(first, error)
                return 0
        return sent

    def _claim(self) -> Document | None:
        now = milliseconds(utc_now())
        return documents.claim_email(self._database, now, now + timedelta(seconds=self._settings.email_lease_seconds))

    def _attempt(self, session: smtplib.SMTP, notification: Document) -> None:
        """Send it, or record why not.

        Raises:
            SMTPException, OSError: the connection is of no more use.
        """
        fault("notifier.claimed")
        recipient = documents.load_recipients(self._database, [notification["customer_id"]])[
            notification["customer_id"]
        ]
        reason = refusal(recipient, notification["event_type"], notification["category"])
        if reason is not None:
            # He changed his mind, or his address, since the event.
            self._record(notification, {"status": "SKIPPED", "reason": reason})
            return
        address = recipient.email or notification["channels"]["email"]["recipient"]
        if address is None:
            self._retry(notification, LookupError(NO_ADDRESS))
            return
        fault("notifier.before_send")
        try:
            session.send_message(
                compose_email(notification, self._settings.smtp_from, address),
                from_addr=parseaddr(self._settings.smtp_from)[1],
                to_addrs=[address],
            )
        except smtplib.SMTPRecipientsRefused as error:
            self._refused(notification, error)
            return
        except (smtplib.SMTPDataError, smtplib.SMTPSenderRefused) as error:
            self._retry(notification, error)
            return
        fault("notifier.sent")
        self._record(
            notification, {"status": "SENT", "recipient": address, "sent_at": milliseconds(utc_now()), "reason": None}
        )
        fault("notifier.recorded")

    def _refused(self, notification: Document, error: smtplib.SMTPRecipientsRefused) -> None:
        """5xx for the address is for good, 4xx (greylisting, a full mailbox) may pass."""
        codes = [code for code, _ in error.recipients.values()]
        if all(code >= 500 for code in codes):
            self._record(notification, {"status": "FAILED", "reason": f"recipient refused ({codes[0]})"})
        else:
            self._retry(notification, error)

    def _retry(self, notification: Document, error: Exception) -> None:
        attempts: int = notification["channels"]["email"]["attempts"]
        reason = describe(error)
        if attempts >= self._settings.email_attempts_max:
            log.error("e-mail given up", notification_id=notification["_id"], attempts=attempts, reason=reason)
            self._record(notification, {"status": "FAILED", "reason": reason})
            return
        log.warning("e-mail not sent", notification_id=notification["_id"], attempts=attempts, reason=reason)
        due = utc_now() + timedelta(seconds=pause_seconds(attempts, self._settings))
        changes = {"retry_count": attempts, "next_attempt_at": milliseconds(due), "reason": reason}
        self._record(notification, changes)

    def _record(self, notification: Document, changes: Document) -> None:
        documents.record_email(self._database, notification, changes, milliseconds(utc_now()))


def pause_seconds(attempts: int, settings: Settings) -> float:
    """How long to wait after that many attempts; grows fourfold each time up to a limit."""
    return float(min(settings.email_pause_seconds * 4 ** (attempts - 1), settings.email_pause_seconds_max))


def describe(error: Exception) -> str:
    """For the record, without what the server said in words: that may quote the address."""
    code = getattr(error, "smtp_code", None)
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code = next(iter(error.recipients.values()))[0]
    if isinstance(error, LookupError):
        return str(error.args[0])
    return type(error).__name__ + (f" ({code})" if code is not None else "")


def message_id(notification_id: str, sender: str) -> str:
    """The same on every attempt, so that a mail server or reader can tell a repeat."""
    return f"<{notification_id}@{parseaddr(sender)[1].rpartition('@')[2]}>"


def compose_email(notification: Document, sender: str, address: str) -> EmailMessage:
    created_at: datetime = notification["created_at"]
    message = EmailMessage()
    message["From"] = sender
    message["To"] = address
    message["Subject"] = notification["title"]
    message["Date"] = format_datetime(created_at)
    message["Message-ID"] = message_id(notification["_id"], sender)
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(f"{notification['message']}\n")
    return message
