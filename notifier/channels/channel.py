"""The interface of a channel."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from notifier.documents import Recipient
from shared.mongo import Document

UNAVAILABLE = "channel-not-available"
NOT_CONFIGURED = "channel-not-configured"
DISABLED = "disabled-by-preference"
MUTED = "muted-by-preference"
NO_ADDRESS = "no-address"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a channel may look at when a notification begins."""

    recipient: Recipient
    event_type: str
    category: str
    now: datetime


class Channel(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def asks_recipient(self) -> bool:
        """Whether `open` looks at more of the recipient than who he is."""

    def open(self, outgoing: Outgoing) -> Document:
        """The channel's part of a new notification's `channels`: a status, and for SKIPPED the reason."""


def skipped(reason: str) -> Document:
    return {"status": "SKIPPED", "reason": reason}
