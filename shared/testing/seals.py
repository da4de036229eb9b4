"""The seals of tests that make no key directory."""

import base64

from pydantic import SecretStr

from shared.messaging.seal import Seals

_KEY = bytes(range(32))
MESSAGE_KEYS = SecretStr(f"1:{base64.b64encode(_KEY).decode()}")
SEALS = Seals({1: _KEY})
STRANGER = Seals({1: bytes(32)})
"""Somebody with a key of his own."""


def refuse_to_refuse(queue: str, kind: str) -> None:
    """For who meets only what is true."""
    raise AssertionError(f"a {kind} of {queue} was refused")
