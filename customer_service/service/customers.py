"""Accounts: registering, changing, tiers, preferences, and which broker acts for whom."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from customer_service import repository
from customer_service.errors import EmailTaken, UsernameTaken, no_such
from customer_service.personal import FIELDS, NOTHING, Personal, digests, opened, sealed
from customer_service.repository import Row
from customer_service.service.events import PROJECTION_READERS, changes, record_state, state_fields
from shared import idempotency
from shared.auth.ended_sessions import find_session_ends
from shared.auth.permissions import Role
from shared.clock import utc_now
from shared.contracts.customers import (
    BrokerCustomerAssigned,
    BrokerCustomerUnassigned,
    CustomerDeactivated,
    CustomerRegistered,
    CustomerRoleChanged,
    CustomerState,
    CustomerTierChanged,
    CustomerUpdated,
    NotificationPreferencesChanged,
)
from shared.db import Database, UnitOfWork
from shared.encryption import FieldKeys
from shared.errors import NotFound
from shared.faults import fault
from shared.idempotency import IdempotentCall, Replay

_REPUBLISH_BATCH = 500


@dataclass(frozen=True, slots=True)
class Registration:
    """A new account. `password_hash` is an Argon2 hash: hashing is slow and has no place in a transaction. `personal` is in
    clear."""

    username: str
    password_hash: str
    email: str | None = None
    full_name: str | None = None
    role: Role = Role.CUSTOMER
    tier: str = "STANDARD"
    beneficial_owner_id: int | None = None
    personal: Personal = field(default_factory=lambda: NOTHING, repr=False)


def register_customer(
    uow: UnitOfWork, registration: Registration, keys: FieldKeys | None, call: IdempotentCall | None = None
) -> Replay:
    """Open an account and say so; its id is in `resource_id`. A repeat of `call` gives the first one's.

    Args:
        keys: seal what `registration.personal` holds; None only when it holds nothing.

    Raises:
        UsernameTaken, EmailTaken: by another account; nothing is written.
        ValidationFailed: there is no such tier or beneficial owner.
    """
    if call is not None:
        replay = idempotency.claim(uow.connection, call.scope, call.digest)
        if replay is not None:
            return replay
    connection = uow.connection
    if not repository.tier_exists(connection, registration.tier):
        raise no_such("/tier", "tier")
    owner = registration.beneficial_owner_id
    if owner is not None and repository.find_state(connection, owner) is None:
        raise no_such("/beneficial_owner_id", "customer")
    customer_id = repository.insert_customer(connection, _columns(registration, uow.context.organization_id))
    if customer_id is None:
        raise _taken(uow, registration)
    also = {}
    if known := {name: value for name, value in registration.personal.items() if value is not None}:
        assert keys is not None
        repository.set_personal(connection, [{"id": customer_id, **sealed(keys, customer_id, registration.personal)}])
        also = digests(keys, customer_id, known)
    record_state(uow, CustomerRegistered, customer_id, before=None, also_after=also)
    if call is not None:
        return idempotency.complete(connection, call.scope, status_code=201, resource_id=str(customer_id))
    return Replay(201, str(customer_id), replayed=False)


def ensure_customer(database: Database, registration: Registration) -> int:
    """The id of the account with this username, opened when there is none. For seeds, which know no personal data; what
    exists is not changed."""

    def work(uow: UnitOfWork) -> int:
        known = repository.find_state_by_username(uow.connection, registration.username)
        return known["id"] if known else int(register_customer(uow, registration, None).resource_id)

    return database.run(work)


def ensure_assignment(database: Database, broker_id: int, customer_id: int) -> None:
    """Let the broker act for the customer, if he may not already. For seeds."""
    database.run(lambda uow: assign_broker_customer(uow, broker_id, customer_id))


def ensure_tier(database: Database, **values: Any) -> None:
    """Add or change a tier (columns of `customer_tiers`), and say it of its customers. For seeds and tests."""

    def work(uow: UnitOfWork) -> None:
        repository.upsert_tier(uow.connection, {"fee_rate": 0, "fee_minimum": 0, **values})

    database.run(work)


def update_customer(uow: UnitOfWork, customer_id: int, values: dict[str, Any], keys: FieldKeys) -> Row:
    """Change contact data, `active` or `role`; `values` holds only what changes, in clear. Changing nothing says nothing.

    A deactivated customer's sessions and tokens end. A new role needs no new tokens: it is looked up, not read from
    them.

    Raises:
        NotFound: no such customer.
        EmailTaken: by another account.
    """
    before = _locked(uow, customer_id)
    personal = opened(keys, before)
    new_personal = {name: values[name] for name in FIELDS if name in values and values[name] != personal[name]}
    values = {name: value for name, value in values.items() if name not in FIELDS}
    if not new_personal and all(before[name] == value for name, value in values.items()):
        return before
    email = values.get("email")
    if email is not None and repository.email_taken(uow.connection, email, by_other_than=customer_id):
        raise EmailTaken()
    after = {**before, **values}
    if before["active"] and not after["active"]:
        event: type[CustomerState] = CustomerDeactivated
    elif before["role"] != after["role"]:
        event = CustomerRoleChanged
    else:
        event = CustomerUpdated
    if event is CustomerDeactivated:
        after["tokens_valid_from"] = utc_now()
        repository.revoke_all_sessions(uow.connection, customer_id)
    repository.update_customer(uow.connection, customer_id, after)
    if new_personal:
        columns = sealed(keys, customer_id, {**personal, **new_personal})
        repository.set_personal(uow.connection, [{"id": customer_id, **columns}])
    old_personal = {name: personal[name] for name in new_personal}
    row = record_state(
        uow,
        event,
        customer_id,
        before=before,
        also_before=digests(keys, customer_id, old_personal),
        also_after=digests(keys, customer_id, new_personal),
    )
    if before["role"] == Role.BROKER and row["role"] != Role.BROKER:
        _unassign_all(uow, customer_id)
    return row


def set_tier(uow: UnitOfWork, customer_id: int, tier: str) -> Row:
    """Move a customer to another tier; to his own again says nothing.

    Raises:
        NotFound: no such customer.
        ValidationFailed: no such tier.
    """
    before = _locked(uow, customer_id)
    if not repository.tier_exists(uow.connection, tier):
        raise no_such("/tier", "tier")
    if before["tier"] == tier:
        return before
    repository.update_customer(uow.connection, customer_id, {**before, "tier": tier})
    return record_state(uow, CustomerTierChanged, customer_id, before=before)


def set_preferences(uow: UnitOfWork, customer_id: int, values: dict[str, Any]) -> Row:
    """Replace the notification preferences; the same again says nothing.

    Raises:
        NotFound: no such customer.
    """
    customer = _locked(uow, customer_id)
    before = repository.find_preferences(uow.connection, customer_id)
    assert before is not None, "every customer has preferences from the start"
    old, new = changes({name: before[name] for name in values}, values)
    if not new:
        return before
    stored = {**values, "preferences": msgspec.json.encode(values["preferences"]).decode()}
    repository.update_preferences(uow.connection, customer_id, stored)
    repository.touch_customer(uow.connection, customer_id)
    after = repository.find_preferences(uow.connection, customer_id)
    assert after is not None
    uow.record(
        NotificationPreferencesChanged(before=old, after=new, **values),
        aggregate_id=str(customer_id),
        aggregate_version=customer["version"] + 1,
        customer_id=customer_id,
    )
    return after


def assign_broker_customer(uow: UnitOfWork, broker_id: int, customer_id: int) -> Row:
    """Let the broker act for the customer; a repeat changes nothing.

    Raises:
        NotFound: no such broker.
        ValidationFailed: there is no such customer, or he is no customer.
    """
    broker = repository.find_state(uow.connection, broker_id)
    if broker is None or broker["role"] != Role.BROKER:
        raise NotFound()
    if not repository.lock_customer(uow.connection, customer_id):
        raise no_such("/customer_id", "customer")
    before = repository.find_state(uow.connection, customer_id)
    if before is None or before["role"] != Role.CUSTOMER:
        raise no_such("/customer_id", "customer")
    if repository.insert_assignment(uow.connection, broker_id, customer_id):
        repository.touch_customer(uow.connection, customer_id)
        record_state(uow, BrokerCustomerAssigned, customer_id, before=before, broker_id=broker_id)
    assignment = repository.find_assignment(uow.connection, broker_id, customer_id)
    assert assignment is not None
    return assignment


def unassign_broker_customer(uow: UnitOfWork, broker_id: int, customer_id: int) -> None:
    """End it.

    Raises:
        NotFound: the broker does not act for the customer.
    """
    before = _locked(uow, customer_id)
    if not repository.delete_assignment(uow.connection, broker_id, customer_id):
        raise NotFound()
    repository.touch_customer(uow.connection, customer_id)
    record_state(uow, BrokerCustomerUnassigned, customer_id, before=before, broker_id=broker_id)


def republish(database: Database) -> int:
    """Say every customer's state, and which of his sessions ended just now, again to those who keep a projection; how many
    customers. The guard by version makes it harmless."""
    after_id, count = 0, 0
    while True:
        batch = database.run(lambda uow, after_id=after_id: _republish_batch(uow, after_id))  # type: ignore[misc]
        if not batch:
            return count
        after_id, count = batch[-1], count + len(batch)


def _republish_batch(uow: UnitOfWork, after_id: int) -> list[int]:
    rows = repository.list_states(uow.connection, after_id=after_id, limit=_REPUBLISH_BATCH)
    for row in rows:
        uow.record(
            CustomerUpdated(**state_fields(row)),
            aggregate_id=str(row["id"]),
            aggregate_version=row["version"],
            customer_id=row["id"],
            readers=PROJECTION_READERS,
        )
    for row in repository.list_preferences(uow.connection, [row["id"] for row in rows]):
        names = ("email_enabled", "sms_enabled", "push_enabled", "preferences")
        uow.record(
            NotificationPreferencesChanged(**{name: row[name] for name in names}),
            aggregate_id=str(row["customer_id"]),
            aggregate_version=row["customer_version"],
            customer_id=row["customer_id"],
            readers=("notifier",),
        )
    for end in find_session_ends(uow.connection, [row["id"] for row in rows]):
        uow.record(end, aggregate_id=str(end.customer_id), customer_id=end.customer_id, readers=PROJECTION_READERS)
    return [row["id"] for row in rows]


def _unassign_all(uow: UnitOfWork, broker_id: int) -> None:
    for customer_id in repository.list_assigned_customer_ids(uow.connection, broker_id):
        unassign_broker_customer(uow, broker_id, customer_id)


def _locked(uow: UnitOfWork, customer_id: int) -> Row:
    if not repository.lock_customer(uow.connection, customer_id):
        raise NotFound()
    row = repository.find_state(uow.connection, customer_id)
    assert row is not None
    fault("customers.locked")
    return row


def _columns(registration: Registration, organization_id: str) -> Row:
    return {
        "username": registration.username,
        "password_hash": registration.password_hash,
        "email": registration.email,
        "full_name": registration.full_name,
        "role": registration.role.value,
        "tier": registration.tier,
        "beneficial_owner_id": registration.beneficial_owner_id,
        "organization_id": organization_id,
    }


def _taken(uow: UnitOfWork, registration: Registration) -> UsernameTaken | EmailTaken:
    known = repository.find_state_by_username(uow.connection, registration.username)
    return UsernameTaken() if known else EmailTaken()
