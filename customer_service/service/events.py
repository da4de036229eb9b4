"""How a change of a customer is said to the other services."""

import hashlib
from collections.abc import Mapping
from typing import Any

from customer_service import repository
from customer_service.repository import Row
from shared.contracts.customers import CustomerState
from shared.db import UnitOfWork
from shared.faults import fault

_PERSONAL = frozenset({"email", "full_name"})
_SAID = ("email", "full_name", "role", "tier", "active", "brokers", "beneficial_owner_id")
PROJECTION_READERS = ("order_service", "asset_service", "processor", "notifier")
"""Who keeps a projection of customers. The auditor keeps a trail instead, and must not read of a change twice."""


def digest_of_personal(customer_id: int, value: str | None) -> str | None:
    """Tells that a value changed, or is the same again for the same person, without being it."""
    if value is None:
        return None
    return "sha256:" + hashlib.sha256(f"{customer_id}:{value}".encode()).hexdigest()


def state_fields(row: Row) -> dict[str, Any]:
    """The fields of `CustomerState` from a row of `repository.find_state`."""
    names = CustomerState.__struct_fields__
    fields = {name: row[name] for name in names if name in row}
    fields["brokers"] = tuple(row["brokers"])
    return fields


def said(row: Row) -> dict[str, Any]:
    """A customer as `before` and `after` show him: personal data as digests. What is stored encrypted is spoken of where it
    changes."""
    shown: dict[str, Any] = {}
    for name in _SAID:
        value = row[name]
        shown[name] = digest_of_personal(row["id"], value) if name in _PERSONAL else value
    return shown


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Only what differs, from both."""
    names = [name for name in after if before.get(name) != after[name]]
    return {name: before.get(name) for name in names}, {name: after[name] for name in names}


def record_state(
    uow: UnitOfWork, event: type[CustomerState], customer_id: int, *, before: Row | None, **extra: Any
) -> Row:
    """Say the customer's state as it is now in this transaction, and what changed since `before`; returns the new
    row."""
    row = repository.find_state(uow.connection, customer_id)
    assert row is not None, "a customer is never deleted"
    if before is None:
        old, new = None, said(row)
    else:
        old, new = changes(said(before), said(row))
        old |= extra.pop("also_before", {})
    payload = event(before=old, after={**new, **extra.pop("also_after", {})}, **state_fields(row), **extra)
    uow.record(payload, aggregate_id=str(customer_id), aggregate_version=row["version"], customer_id=customer_id)
    fault("customers.said")
    return row
