"""Said by any service."""

from typing import Any

from shared.contracts.message import Event, contract


@contract("admin_action", ("auditor",))
class AdminActed(Event, frozen=True, kw_only=True):
    """An admin did something that changes no aggregate of its own, or more than one: `action` is the operation's id."""

    action: str
    subject: dict[str, Any]
