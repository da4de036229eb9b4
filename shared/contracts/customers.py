"""Said by customer_service. Every event about a customer carries his whole state, so that a reader's projection is one
upsert guarded by `aggregate_version`, and a repeated, late or re-published event does no harm."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from shared.contracts.message import Event, contract

CUSTOMER = "customer"
_PROJECTIONS = ("order_service", "asset_service", "processor", "notifier", "auditor")


class CustomerState(Event, frozen=True, kw_only=True):
    """A customer as other services may know him. `email` is for the notifier; the auditor keeps only its digest.

    `tokens_valid_from`: access tokens issued before are refused. `brokers`: ids of the brokers who may act for him.
    """

    customer_id: int
    username: str
    email: str | None = None
    role: str
    tier: str
    tier_priority: int
    rate_limit: int
    fee_rate: Decimal
    fee_minimum: Decimal
    active: bool
    tokens_valid_from: datetime
    beneficial_owner_id: int
    brokers: tuple[int, ...] = ()


@contract(CUSTOMER, _PROJECTIONS)
class CustomerRegistered(CustomerState, frozen=True, kw_only=True):
    pass


@contract(CUSTOMER, _PROJECTIONS)
class CustomerUpdated(CustomerState, frozen=True, kw_only=True):
    pass


@contract(CUSTOMER, _PROJECTIONS)
class CustomerDeactivated(CustomerState, frozen=True, kw_only=True):
    """Also: order_service asks for the cancelation of his open orders."""


@contract(CUSTOMER, _PROJECTIONS)
class CustomerTierChanged(CustomerState, frozen=True, kw_only=True):
    pass


@contract(CUSTOMER, _PROJECTIONS)
class CustomerRoleChanged(CustomerState, frozen=True, kw_only=True):
    pass


@contract(CUSTOMER, _PROJECTIONS)
class BrokerCustomerAssigned(CustomerState, frozen=True, kw_only=True):
    broker_id: int


@contract(CUSTOMER, _PROJECTIONS)
class BrokerCustomerUnassigned(CustomerState, frozen=True, kw_only=True):
    broker_id: int


@contract(CUSTOMER, ("notifier", "auditor"))
class NotificationPreferencesChanged(Event, frozen=True, kw_only=True):
    email_enabled: bool
    sms_enabled: bool
    push_enabled: bool
    preferences: dict[str, Any]


@contract(CUSTOMER, ("auditor",))
class UserSignedIn(Event, frozen=True, kw_only=True):
    """`api_key_id`: a program signed in, with that key."""

    username: str
    api_key_id: str | None = None


@contract(CUSTOMER, ("auditor",))
class ApiKeyCreated(Event, frozen=True, kw_only=True):
    api_key_id: str
    name: str
    scopes: tuple[str, ...]
    expires_at: datetime | None = None


@contract(CUSTOMER, ("auditor",))
class ApiKeyRevoked(Event, frozen=True, kw_only=True):
    api_key_id: str


@contract(CUSTOMER, _PROJECTIONS)
class SessionEnded(Event, frozen=True, kw_only=True):
    """Signed out, revoked, or ended because a refresh token came twice: no service takes its access tokens any more.

    `session_id` is an API key's id when that was revoked: all sessions that programs had with it end.
    `tokens_until`: when the last access token has run out.
    """

    customer_id: int
    session_id: str
    tokens_until: datetime


@contract(CUSTOMER, ("auditor",))
class SecondFactorChanged(Event, frozen=True, kw_only=True):
    """`active`: set up and confirmed, or removed."""

    active: bool


@contract(CUSTOMER, ("auditor",))
class SignInFailed(Event, frozen=True, kw_only=True):
    """`username_digest`: what was typed may be a password typed into the wrong field."""

    username_digest: str
    reason: str
