"""Who may do what: one table of operation x role x ownership. Routes enforce it, tests are generated from it.

A route names its row by its OpenAPI `operationId`; one without a row cannot be created (`shared.http.route`).
A new role is a member of `Role` and its cells here: endpoints ask for the scope a cell gives, never for a role.
Source: contract, HTTP (column "who"); an auditor changes nothing but his own credentials.
"""

from collections.abc import Mapping, Set
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    ADMIN = "ADMIN"
    BROKER = "BROKER"
    CUSTOMER = "CUSTOMER"
    AUDITOR = "AUDITOR"


class Scope(StrEnum):
    """Whose things: everybody's, those of the customers assigned to the broker, or only one's own."""

    ANY = "ANY"
    ASSIGNED = "ASSIGNED"
    OWN = "OWN"


class ApiScope(StrEnum):
    """What an API key may be used for, at most: its owner's role still decides."""

    READ = "read"
    TRADE = "trade"
    TRANSFER = "transfer"


Grants = Mapping[Role, Scope]
PUBLIC: Final[Grants] = {}
"""Open to anybody, with or without a token. Compare by identity."""

_EVERYONE = dict.fromkeys(Role, Scope.ANY)
_EVERYONE_OWN = dict.fromkeys(Role, Scope.OWN)
_ACTING_OWN: Grants = {role: Scope.OWN for role in Role if role is not Role.AUDITOR}
_ADMIN = {Role.ADMIN: Scope.ANY}
_ADMIN_OR_OWN = {**_EVERYONE_OWN, Role.ADMIN: Scope.ANY}
_ADMIN_OR_ACTING_OWN: Grants = {**_ACTING_OWN, Role.ADMIN: Scope.ANY}
_ADMIN_OR_THAT_BROKER = {Role.ADMIN: Scope.ANY, Role.BROKER: Scope.OWN}
_TRADING = {Role.ADMIN: Scope.ANY, Role.BROKER: Scope.ASSIGNED, Role.CUSTOMER: Scope.OWN}
_ADMIN_OR_BROKER = {Role.ADMIN: Scope.ANY, Role.BROKER: Scope.ASSIGNED}
_CONTROL = {Role.ADMIN: Scope.ANY, Role.AUDITOR: Scope.ANY}

PERMISSIONS: Final[Mapping[str, Grants]] = {
    # every process; who may reach them is the network's to say
    "get_live": PUBLIC,
    "get_ready": PUBLIC,
    "get_metrics": PUBLIC,
    "get_problem": PUBLIC,
    # customer_service
    "issue_token": PUBLIC,
    "revoke_token": PUBLIC,  # whoever holds the refresh token may end it (RFC 7009)
    "get_jwks": PUBLIC,
    "change_password": _EVERYONE_OWN,
    "create_api_key": _EVERYONE_OWN,
    "list_api_keys": _EVERYONE_OWN,
    "get_own_api_key": _EVERYONE_OWN,
    "revoke_api_key": _EVERYONE_OWN,
    "get_totp": _EVERYONE_OWN,
    "enroll_totp": _EVERYONE_OWN,
    "activate_totp": _EVERYONE_OWN,
    "prove_totp": _EVERYONE_OWN,
    "remove_totp": _EVERYONE_OWN,
    "reset_totp": _ADMIN,  # of somebody who has lost his device
    "get_me": _EVERYONE_OWN,
    "create_customer": _ADMIN,
    "list_customers": _ADMIN,
    "get_customer": _ADMIN_OR_OWN,
    "update_customer": _ADMIN_OR_ACTING_OWN,
    "set_customer_tier": _ADMIN,
    "list_tiers": _EVERYONE,
    "get_notification_preferences": _ADMIN_OR_OWN,
    "set_notification_preferences": _ADMIN_OR_ACTING_OWN,
    "list_brokers": _ADMIN_OR_THAT_BROKER,
    "list_broker_customers": _ADMIN_OR_THAT_BROKER,
    "assign_broker_customer": _ADMIN,
    "unassign_broker_customer": _ADMIN,
    # order_service
    "place_order": _TRADING,
    "list_orders": _TRADING,
    "get_order": _TRADING,
    "list_order_events": _TRADING,
    "get_order_by_client_id": _TRADING,
    "cancel_order": _TRADING,
    # processor
    "match_order": _ADMIN_OR_BROKER,
    "list_matching_queue": _ADMIN,
    "create_cross": _ADMIN,
    "run_matching": _ADMIN,
    "list_trades": _TRADING,
    "list_sagas": _ADMIN,
    "get_saga": _ADMIN,
    "retry_saga": _ADMIN,
    # asset_service
    "list_assets": _TRADING,
    "get_asset": _TRADING,
    "list_reservations": _TRADING,
    "deposit": _ADMIN_OR_BROKER,
    "withdraw": {Role.ADMIN: Scope.ANY, Role.CUSTOMER: Scope.OWN},
    "list_transfers": _ADMIN_OR_BROKER,
    "list_instruments": _EVERYONE,
    "get_instrument": _EVERYONE,
    "put_instrument": _ADMIN,
    "list_ledger_entries": {**_CONTROL, Role.CUSTOMER: Scope.OWN},
    "verify_ledger": _CONTROL,
    # notifier
    "list_notifications": _EVERYONE_OWN,
    "mark_notification_read": _ACTING_OWN,
    # auditor
    "search_audit_logs": _CONTROL,
    "verify_audit": _CONTROL,
    "export_audit": _CONTROL,
    "list_telemetry": _CONTROL,
    # every service
    "list_dead_letters": _ADMIN,
    "get_dead_letter": _ADMIN,
    "requeue_dead_letter": _ADMIN,
}

_READ = frozenset({ApiScope.READ})
_TRADE = frozenset({ApiScope.TRADE})
_TRANSFER = frozenset({ApiScope.TRANSFER})

API_SCOPES: Final[Mapping[str, frozenset[ApiScope]]] = {
    **dict.fromkeys(("get_me", "get_customer", "list_customers", "list_tiers", "get_notification_preferences"), _READ),
    **dict.fromkeys(("list_brokers", "list_broker_customers"), _READ),
    **dict.fromkeys(("list_orders", "get_order", "list_order_events", "get_order_by_client_id", "list_trades"), _READ),
    **dict.fromkeys(("list_matching_queue", "list_sagas", "get_saga", "list_notifications"), _READ),
    **dict.fromkeys(("list_assets", "get_asset", "list_reservations", "list_transfers"), _READ),
    **dict.fromkeys(("list_instruments", "get_instrument", "list_ledger_entries", "verify_ledger"), _READ),
    **dict.fromkeys(("search_audit_logs", "verify_audit", "export_audit", "list_telemetry"), _READ),
    **dict.fromkeys(("place_order", "cancel_order", "match_order", "create_cross", "run_matching"), _TRADE),
    **dict.fromkeys(("deposit", "withdraw"), _TRANSFER),
    "get_own_api_key": frozenset(ApiScope),
}
"""Which scopes of an API key suffice for an operation; what is not listed is for persons only: administration,
credentials, repair."""


def operations_of(role: Role, api_scopes: Set[str]) -> list[str]:
    """What an API key with these scopes may call for an owner of this role, by operation id."""
    return sorted(name for name, enough in API_SCOPES.items() if api_scopes & enough and role in PERMISSIONS[name])
