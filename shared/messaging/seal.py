"""The seal on whatever goes through the broker: a keyed digest, so that who can write to the broker can still say nothing.

One per message, never per event. It covers the channel too: what was truly said to one reader is not true for another.
The newest key seals, all that are known open; keys come from `BROKAGE_MESSAGE_KEYS` or, without it, from the files
`message-<number>.key` of the key directory (shared/numbered_keys.py). Source: docs/adr/0009-sealed-messages.md.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from shared.numbered_keys import KeysUnusable, NumberedKeys
from shared.settings import ServiceSettings

TELEMETRY_CHANNEL = "telemetry"
REPORT_CHANNEL = "refusals"
_CHANNELS_MAX = 64


class MessageKeysUnusable(KeysUnusable):
    """There are no keys that seal messages, or one of them is not 32 bytes in base64. Says where, never what."""


_SOURCE = NumberedKeys(
    purpose="message",
    what="messages between services",
    variable="BROKAGE_MESSAGE_KEYS",
    made_by="`brokage up` makes the first, a deployment its own",
    unusable=MessageKeysUnusable,
)


def delivery_channel(reader: str) -> str:
    return f"delivery/{reader}"


def acknowledgement_channel(source: str) -> str:
    return f"acknowledgement/{source}"


@dataclass(frozen=True, slots=True)
class Seals:
    """The keys by number; without a word about them when printed."""

    _keys: Mapping[int, bytes] = field(repr=False)

    def seal(self, channel: str, body: bytes) -> str:
        """32 bytes in hexadecimal, under the newest key. Some 3 us, and 0.7 ms for each MB of `body`."""
        return _digest(self._keys[max(self._keys)], channel, body)

    def is_true(self, channel: str, body: bytes, seal: str) -> bool:
        """Whether somebody with one of our keys has said `body` on `channel`."""
        given = seal.encode()
        return any(
            hmac.compare_digest(_digest(self._keys[number], channel, body).encode(), given)
            for number in sorted(self._keys, reverse=True)
        )


def load(settings: ServiceSettings) -> Seals:
    """
    Raises:
        MessageKeysUnusable: see there.
    """
    return Seals(_SOURCE.load(settings.message_keys, settings.key_dir))


def load_directory(directory: Path) -> Seals:
    return Seals(_SOURCE.load_directory(directory))


def ensure(directory: Path) -> int:
    """The number of the newest key in the key directory, made when there is none."""
    return _SOURCE.ensure(directory)


def _digest(key: bytes, channel: str, body: bytes) -> str:
    return hmac.digest(_channel_key(key, channel), body, "sha256").hex()


@lru_cache(maxsize=_CHANNELS_MAX)
def _channel_key(key: bytes, channel: str) -> bytes:
    """A key for each channel, so that a body needs no copy with its channel in front."""
    return hmac.digest(key, b"brokage message " + channel.encode(), "sha256")
