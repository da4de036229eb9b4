"""An e-mail's text and identity, and how long a repeat waits."""

import smtplib
from datetime import UTC, datetime

import pytest

from notifier.sender import SmtpServer, compose_email, describe, message_id, pause_seconds
from notifier.settings import Settings

SENDER = "Brokage <no-reply@brokage.test>"
NOTIFICATION = {
    "_id": "0190a0a0-0000-7000-8000-000000000001",
    "title": "Order filled",
    "message": "Your order ğüş was filled.",
    "created_at": datetime(2026, 11, 21, 10, tzinfo=UTC),
}


def test_every_attempt_is_the_same_message_to_the_byte() -> None:
    first = compose_email(NOTIFICATION, SENDER, "a@example.com")
    again = compose_email(NOTIFICATION, SENDER, "a@example.com")
    assert first.as_bytes() == again.as_bytes()
    assert first["Message-ID"] == message_id(NOTIFICATION["_id"], SENDER) == f"<{NOTIFICATION['_id']}@brokage.test>"
    assert first["Subject"] == "Order filled"
    assert "ğüş" in first.get_content()


def test_pauses_grow_up_to_a_limit() -> None:
    settings = Settings(email_pause_seconds=30, email_pause_seconds_max=1000)
    assert [pause_seconds(attempts, settings) for attempts in (1, 2, 3, 4, 5)] == [30, 120, 480, 1000, 1000]


def test_what_is_recorded_of_an_error_never_quotes_the_server() -> None:
    refused = smtplib.SMTPRecipientsRefused({"canary@example.com": (450, b"canary@example.com is away")})
    assert describe(refused) == "SMTPRecipientsRefused (450)"
    assert describe(smtplib.SMTPDataError(451, b"canary")) == "SMTPDataError (451)"
    assert describe(ConnectionRefusedError("canary")) == "ConnectionRefusedError"


class TestSmtpServer:
    def test_user_and_password_are_unquoted(self) -> None:
        server = SmtpServer.from_url("smtp://us%40er:p%2Fw@mail.example.com:587", 5)
        assert (server.host, server.port, server.username, server.password) == ("mail.example.com", 587, "us@er", "p/w")

    def test_smtps_is_encrypted_from_the_start(self) -> None:
        server = SmtpServer.from_url("smtps://mail.example.com", 5)
        assert (server.port, server.implicit_tls) == (465, True)

    @pytest.mark.parametrize("url", ["mail.example.com:25", "http://mail.example.com", "smtp://"])
    def test_other_urls_are_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="BROKAGE_SMTP_URL"):
            SmtpServer.from_url(url, 5)
