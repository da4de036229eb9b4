"""Said by any service."""

from typing import Any

from shared.contracts.message import Actor, Event, contract

NOBODY_KNOWN = Actor(role="UNKNOWN")
"""Who does what only an intruder would do."""


@contract("admin_action", ("auditor",))
class AdminActed(Event, frozen=True, kw_only=True):
    """An admin did something that changes no aggregate of its own, or more than one: `action` is the operation's id."""

    action: str
    subject: dict[str, Any]


@contract("message_queue", ("auditor",))
class MessageRefused(Event, frozen=True, kw_only=True):
    """Something in the broker that none of our processes has put there, as its seal told. It had no effect.

    `queue` is whose it was: the reader's, or for what a source is told the source's. `count` is how many since this was said
    last; it is said at most once a minute by each process.
    """

    queue: str
    kind: str
    count: int
