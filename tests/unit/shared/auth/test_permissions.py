"""The table of permissions: complete, and as the contract's column "who" says."""

import pytest

from shared.auth.permissions import API_SCOPES, PERMISSIONS, PUBLIC, Role, Scope
from shared.http.route import EdgeRoute, grants_of

ALL = set(Role)


def may(operation: str) -> set[Role]:
    return set(PERMISSIONS[operation])


@pytest.mark.parametrize("operation", ["deposit", "list_transfers"])
def test_customers_neither_deposit_nor_list_transfers(operation: str) -> None:
    assert may(operation) == {Role.ADMIN, Role.BROKER}


def test_brokers_do_not_withdraw() -> None:
    assert may("withdraw") == {Role.ADMIN, Role.CUSTOMER}


def test_auditors_only_read() -> None:
    writes = ("create", "update", "set", "place", "cancel", "match", "run", "deposit", "withdraw", "put", "assign")
    changing = [name for name in PERMISSIONS if name.startswith((*writes, "unassign", "retry", "requeue"))]
    assert len(changing) > 12
    for name in {*changing, "mark_notification_read"} - {"create_api_key"}:
        assert Role.AUDITOR not in PERMISSIONS[name], name


def test_brokers_act_on_assigned_customers_only() -> None:
    everybodys = {"list_tiers", "list_instruments", "get_instrument"}
    for name, grants in PERMISSIONS.items():
        if Role.BROKER in grants and name not in everybodys:
            assert grants[Role.BROKER] in (Scope.ASSIGNED, Scope.OWN), name


def test_customers_touch_only_their_own() -> None:
    everybodys = {"list_tiers", "list_instruments", "get_instrument"}
    for name, grants in PERMISSIONS.items():
        if Role.CUSTOMER in grants and name not in everybodys:
            assert grants[Role.CUSTOMER] is Scope.OWN, name


def test_admins_may_everything_that_is_not_personal() -> None:
    totp = {"get_totp", "enroll_totp", "activate_totp", "prove_totp", "remove_totp"}
    personal = totp | {
        "create_api_key",
        "list_api_keys",
        "get_own_api_key",
        "revoke_api_key",
        "get_me",
        "change_password",
        "list_notifications",
        "mark_notification_read",
    }
    for name, grants in PERMISSIONS.items():
        if grants is not PUBLIC and name not in personal:
            assert grants[Role.ADMIN] is Scope.ANY, name


def test_programs_never_touch_credentials_or_administration() -> None:
    assert API_SCOPES.keys() <= PERMISSIONS.keys()
    writing = ("create_", "set_", "update_", "assign_", "unassign_", "put_", "retry_", "requeue_", "change_", "revoke_")
    assert [name for name in API_SCOPES if name.startswith(writing)] == ["create_cross"]


def test_little_is_public() -> None:
    assert {name for name, grants in PERMISSIONS.items() if grants is PUBLIC} == {
        "get_live",
        "get_ready",
        "get_metrics",
        "get_problem",
        "issue_token",
        "revoke_token",
        "get_jwks",
    }


def test_a_route_without_a_row_cannot_be_created() -> None:
    def not_in_the_table() -> None: ...

    with pytest.raises(KeyError):
        EdgeRoute("/api/x", not_in_the_table, methods=["GET"])


def test_a_row_serves_several_services() -> None:
    assert grants_of("list_dead_letters__order_service") is PERMISSIONS["list_dead_letters"]
