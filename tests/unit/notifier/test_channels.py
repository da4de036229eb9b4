"""The status with which a notification begins in each channel."""

from datetime import UTC, datetime
from typing import Any

import pytest

from notifier.channels import Outgoing, open_channels
from notifier.documents import Recipient

NOW = datetime(2026, 11, 21, tzinfo=UTC)
KNOWN = Recipient(7, "a@example.com", known=True)


def opened(recipient: Recipient, *, email_configured: bool = True) -> dict[str, Any]:
    outgoing = Outgoing(recipient, "OrderConfirmed", "ORDER", NOW)
    return {channel.name: channel.open(outgoing) for channel in open_channels(email_configured=email_configured)}


def test_in_the_app_it_is_delivered_at_once() -> None:
    assert opened(KNOWN)["in_app"] == {"status": "DELIVERED", "sent_at": NOW}


@pytest.mark.parametrize("name", ["sms", "push", "websocket"])
def test_channels_that_do_not_exist_yet_say_so(name: str) -> None:
    assert opened(KNOWN)[name] == {"status": "SKIPPED", "reason": "channel-not-available"}


class TestEmail:
    def test_the_intent_is_due_at_once(self) -> None:
        email = opened(KNOWN)["email"]
        assert (email["status"], email["recipient"], email["next_attempt_at"]) == ("PENDING", "a@example.com", NOW)

    def test_without_a_mail_server_it_is_skipped(self) -> None:
        assert opened(KNOWN, email_configured=False)["email"] == {
            "status": "SKIPPED",
            "reason": "channel-not-configured",
        }

    @pytest.mark.parametrize(
        ("recipient", "reason"),
        [
            (Recipient(7, "a@example.com", True, email_enabled=False), "disabled-by-preference"),
            (Recipient(7, "a@example.com", True, preferences={"OrderConfirmed": False}), "muted-by-preference"),
            (Recipient(7, "a@example.com", True, preferences={"ORDER": False}), "muted-by-preference"),
            (Recipient(7, None, True), "no-address"),
        ],
    )
    def test_what_the_recipient_does_not_want_is_skipped(self, recipient: Recipient, reason: str) -> None:
        assert opened(recipient)["email"] == {"status": "SKIPPED", "reason": reason}

    def test_other_event_types_being_muted_changes_nothing(self) -> None:
        recipient = Recipient(7, "a@example.com", True, preferences={"OrderMatched": False, "OrderConfirmed": True})
        assert opened(recipient)["email"]["status"] == "PENDING"

    def test_an_address_that_is_still_on_its_way_is_waited_for(self) -> None:
        email = opened(Recipient(7))["email"]
        assert (email["status"], email["recipient"]) == ("PENDING", None)


class TestAsksRecipient:
    ANYBODY = (KNOWN, Recipient(7), Recipient(7, "a@example.com", True, email_enabled=False))

    @pytest.mark.parametrize("email_configured", [True, False])
    def test_a_channel_asks_exactly_if_its_answer_depends_on_who_it_is(self, email_configured: bool) -> None:
        for channel in open_channels(email_configured=email_configured):
            answers = [channel.open(Outgoing(recipient, "OrderConfirmed", "ORDER", NOW)) for recipient in self.ANYBODY]
            assert channel.asks_recipient is any(answer != answers[0] for answer in answers)
