"""E-mail: the intent is stored with the notification; `notifier.sender` carries it out."""

from notifier.channels.channel import DISABLED, MUTED, NO_ADDRESS, NOT_CONFIGURED, Outgoing, skipped
from notifier.documents import Recipient
from shared.mongo import Document


class EmailChannel:
    name = "email"

    def __init__(self, *, configured: bool) -> None:
        self._configured = configured

    @property
    def asks_recipient(self) -> bool:
        return self._configured

    def open(self, outgoing: Outgoing) -> Document:
        if not self._configured:
            return skipped(NOT_CONFIGURED)
        reason = refusal(outgoing.recipient, outgoing.event_type, outgoing.category)
        if reason is not None:
            return skipped(reason)
        return {
            "status": "PENDING",
            # None when the customer's contact data is still on its way here: it is looked up again when sending.
            "recipient": outgoing.recipient.email,
            "sent_at": None,
            "retry_count": 0,
            "attempts": 0,
            "next_attempt_at": outgoing.now,
        }


def refusal(recipient: Recipient, event_type: str, category: str) -> str | None:
    """Why this recipient gets no e-mail about this, or None."""
    if not recipient.email_enabled:
        return DISABLED
    if not recipient.wants(event_type, category):
        return MUTED
    if recipient.known and not recipient.email:
        return NO_ADDRESS
    return None
