"""From an event, or a read of the trail, to the content of its audit record. Pure."""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from shared.contracts.customers import CustomerState, NotificationPreferencesChanged
from shared.contracts.message import Message
from shared.contracts.system import AdminActed
from shared.mongo import Document, milliseconds

PERSONAL = frozenset({"email", "phone", "full_name", "username", "national_id", "iban"})
"""Fields whose values never reach the trail, at any depth of a payload."""
_DIGEST = re.compile("(sha256|hmac-sha256:[0-9]{1,5}):[0-9a-f]{64}")
_INT64 = 2**63
_LISTS = (list, tuple)


def is_change(message: Message[Any]) -> bool:
    """False for a state that was only said again for new readers: nothing changed, so nothing is recorded."""
    payload = message.payload
    said_again = isinstance(payload, CustomerState | NotificationPreferencesChanged)
    return not (said_again and payload.before is None and payload.after is None)


def content_from_event(message: Message[Any]) -> Document:
    """Who did what to which thing, and how it was before and after. `action` is the event's type; of an admin's act, the
    operation."""
    payload = msgspec.to_builtins(message.payload)
    before, after = payload.pop("before", None), payload.pop("after", None)
    new = {**payload, **(after or {})}
    action = message.payload.action if isinstance(message.payload, AdminActed) else message.type
    return {
        "event_id": message.event_id,
        "timestamp": milliseconds(message.occurred_at),
        "action": action,
        "user_id": message.actor.id,
        "role": message.actor.role,
        "entity_type": message.aggregate_type,
        "entity_id": message.aggregate_id,
        "old_value": _storable(before, message.aggregate_id),
        "new_value": _storable(new, message.aggregate_id),
        "metadata": {
            "event_type": message.type,
            "version": message.aggregate_version,
            "customer_id": message.customer_id,
            "organization_id": message.organization_id,
            "on_behalf_of": message.actor.on_behalf_of,
            "causation_id": message.causation_id,
        },
        "correlation_id": message.correlation_id,
    }


def content_from_read(
    *,
    event_id: str,
    timestamp: datetime,
    operation: str,
    query: Mapping[str, Any],
    user_id: int | None,
    role: str,
    organization_id: str,
    correlation_id: str,
) -> Document:
    """A read of the trail, as it waits in `audit_intake`. `operation` is the OpenAPI operation id."""
    return {
        "event_id": event_id,
        "timestamp": milliseconds(timestamp),
        "action": operation,
        "user_id": user_id,
        "role": role,
        "entity_type": "audit_trail",
        "entity_id": "telemetry" if operation == "list_telemetry" else "audit_logs",
        "old_value": None,
        "new_value": {name: value for name, value in query.items() if value is not None},
        "metadata": {
            "event_type": "AuditTrailRead",
            "version": 1,
            "customer_id": None,
            "organization_id": organization_id,
            "on_behalf_of": None,
            "causation_id": None,
        },
        "correlation_id": correlation_id,
    }


def digest_of_personal(owner: str, value: str) -> str:
    """The same formula as customer_service's: who knows the value can check it, nobody can read it."""
    return "sha256:" + hashlib.sha256(f"{owner}:{value}".encode()).hexdigest()


def _storable(value: Any, owner: str) -> Any:
    """JSON values that the store gives back as they were, and whose JSON is the same everywhere; personal data as digests."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        # Most fields are text; a call for each would cost more than all the rest.
        return {
            name: item if isinstance(item, str) and name not in PERSONAL else _field(name, item, owner)
            for name, item in value.items()
        }
    if isinstance(value, _LISTS):
        return [_storable(item, owner) for item in value]
    if isinstance(value, float) or (isinstance(value, int) and not -_INT64 <= value < _INT64):
        return str(value)
    return value


def _field(name: str, value: Any, owner: str) -> Any:
    return _personal(value, owner) if name in PERSONAL else _storable(value, owner)


def _personal(value: Any, owner: str) -> Any:
    if value is None or (isinstance(value, str) and _DIGEST.fullmatch(value)):
        return value
    return digest_of_personal(owner, str(value))
