"""Every cell of the table of permissions (role x operation x ownership), driven through the real edge of all services.

The cells are made from the table; only what a request looks like stands here. An operation without a request fails.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from shared.auth.permissions import API_SCOPES, PERMISSIONS, PUBLIC, ApiScope, Role, Scope
from shared.ids import new_id
from tests.integration.world import ORDER, World

CALLERS: tuple[str | None, ...] = (None, *(role.value.lower() for role in Role))
OWN, ASSIGNED, FOREIGN = "own", "assigned", "foreign"


@dataclass(frozen=True)
class Request:
    """How an operation is called. `{who}` is the customer whose things it touches, `{read}` one of his orders.

    `names`: what says whose things they are: `customer` in path or query, `body`, `thing` by an id of its own, `broker`,
    or nothing. `answers` are those of who may; `form` is sent as a form.
    """

    method: str
    path: str
    body: Callable[[World, int], dict[str, Any]] | None = None
    names: str = ""
    answers: tuple[int, ...] = (200,)
    form: bool = False

    @property
    def owners(self) -> tuple[str, ...]:
        return {"": ("",), "broker": (OWN, FOREIGN)}.get(self.names, (OWN, ASSIGNED, FOREIGN))


def _amount(world: World, who: int) -> dict[str, Any]:
    return {"customer_id": who, "asset_name": "TRY", "amount": "1", "reference": new_id()}


def _order(world: World, who: int) -> dict[str, Any]:
    return {**ORDER, "customer_id": who, "size": "1", "client_order_id": new_id()}


def _newcomer(world: World, who: int) -> dict[str, Any]:
    return {"username": f"n{new_id()}", "password": "a good password"}


def _cross(world: World, who: int) -> dict[str, Any]:
    orders = [world.things[world.people[name]]["read"] for name in ("assigned", "stranger")]
    return dict(zip(("buy_order_id", "sell_order_id"), orders, strict=True))


def _exactly(**body: Any) -> Callable[[World, int], dict[str, Any]]:
    return lambda world, who: body


REQUESTS: dict[str, Request] = {
    "get_live": Request("GET", "/health/live"),
    "get_ready": Request("GET", "/health/ready"),
    "get_metrics": Request("GET", "/metrics"),
    "get_problem": Request("GET", "/problems/not-found"),
    "issue_token": Request("POST", "/api/auth/token", _exactly(grant_type="unknown"), answers=(422,), form=True),
    "revoke_token": Request("POST", "/api/auth/revoke", _exactly(token="unknown"), answers=(204,), form=True),
    "get_jwks": Request("GET", "/.well-known/jwks.json"),
    "change_password": Request(
        "POST", "/api/auth/password", _exactly(current_password="wrong", new_password="a good password"), answers=(422,)
    ),
    "create_api_key": Request(
        "POST", "/api/api-keys", _exactly(name="n", scopes=["read"], current_password="wrong"), answers=(422,)
    ),
    "list_api_keys": Request("GET", "/api/api-keys"),
    "get_own_api_key": Request("GET", "/api/api-keys/self", answers=(404,)),  # a person has none
    "revoke_api_key": Request("DELETE", "/api/api-keys/unknown", answers=(404,)),
    "get_totp": Request("GET", "/api/auth/totp"),
    "enroll_totp": Request("POST", "/api/auth/totp", _exactly(current_password="wrong"), answers=(422,)),
    "activate_totp": Request("POST", "/api/auth/totp/activate", _exactly(code="000000"), answers=(422,)),
    "prove_totp": Request("POST", "/api/auth/totp/proof", _exactly(code="000000"), answers=(422,)),
    "remove_totp": Request("DELETE", "/api/auth/totp", answers=(204,)),
    "reset_totp": Request("DELETE", "/api/customers/{who}/totp", names="customer", answers=(204,)),
    "get_me": Request("GET", "/api/me"),
    "create_customer": Request("POST", "/api/customers", _newcomer, answers=(201,)),
    "list_customers": Request("GET", "/api/customers"),
    "get_customer": Request("GET", "/api/customers/{who}", names="customer"),
    "update_customer": Request("PATCH", "/api/customers/{who}", _exactly(full_name="A Name"), names="customer"),
    "set_customer_tier": Request("PUT", "/api/customers/{who}/tier", _exactly(tier="VIP"), names="customer"),
    "list_tiers": Request("GET", "/api/tiers"),
    "get_notification_preferences": Request("GET", "/api/customers/{who}/notification-preferences", names="customer"),
    "set_notification_preferences": Request(
        "PUT", "/api/customers/{who}/notification-preferences", _exactly(email_enabled=True), names="customer"
    ),
    "list_brokers": Request("GET", "/api/brokers"),
    "list_broker_customers": Request("GET", "/api/brokers/{who}/customers", names="broker"),
    "assign_broker_customer": Request(
        "POST",
        "/api/brokers/{who}/customers",
        lambda world, who: {"customer_id": world.people["spare"]},
        names="broker",
        answers=(201,),
    ),
    "unassign_broker_customer": Request(
        "DELETE", "/api/brokers/{who}/customers/{spare}", names="broker", answers=(204,)
    ),
    "place_order": Request("POST", "/api/orders", _order, names="body", answers=(201,)),
    "list_orders": Request("GET", "/api/orders?customer_id={who}", names="customer"),
    "get_order": Request("GET", "/api/orders/{read}", names="thing"),
    "list_order_events": Request("GET", "/api/orders/{read}/events", names="thing"),
    "get_order_by_client_id": Request(
        "GET", "/api/orders/by-client-id/read?customer_id={who}&placed_by={who}", names="thing"
    ),
    "cancel_order": Request("DELETE", "/api/orders/{cancel}", names="thing", answers=(202, 200)),
    "match_order": Request(
        "POST", "/api/orders/{match}/match", _exactly(), names="thing", answers=(202, 409)
    ),  # 409: matched by who came before
    "list_matching_queue": Request("GET", "/api/matching/queue"),
    "create_cross": Request("POST", "/api/matching/crosses", _cross, answers=(422,)),  # both of them sell
    "run_matching": Request("POST", "/api/matching/run", _exactly(asset_name="THYAO"), answers=(202,)),
    "list_trades": Request("GET", "/api/trades?customer_id={who}", names="customer"),
    "list_sagas": Request("GET", "/api/sagas"),
    "get_saga": Request("GET", "/api/sagas/{saga}"),
    "retry_saga": Request("POST", "/api/sagas/{saga}/retry", answers=(409,)),  # nothing is stuck
    "list_assets": Request("GET", "/api/assets?customer_id={who}", names="customer"),
    "get_asset": Request("GET", "/api/assets/{who}/TRY", names="thing"),
    "list_reservations": Request("GET", "/api/reservations?customer_id={who}", names="customer"),
    "deposit": Request("POST", "/api/assets/deposit", _amount, names="body", answers=(201,)),
    "withdraw": Request("POST", "/api/assets/withdraw", _amount, names="body", answers=(201,)),
    "list_transfers": Request("GET", "/api/transfers?customer_id={who}", names="customer"),
    "list_instruments": Request("GET", "/api/instruments"),
    "get_instrument": Request("GET", "/api/instruments/AAPL"),
    "put_instrument": Request("PUT", "/api/instruments/NEW", _exactly(size_scale=2)),
    "list_ledger_entries": Request("GET", "/api/ledger/entries?customer_id={who}", names="customer"),
    "verify_ledger": Request("GET", "/api/ledger/verify"),
    "list_notifications": Request("GET", "/api/notifications"),
    "mark_notification_read": Request("POST", "/api/notifications/{notification}/read", names="thing", answers=(204,)),
    "search_audit_logs": Request("GET", "/api/audit/logs"),
    "verify_audit": Request("GET", "/api/audit/verify"),
    "export_audit": Request("GET", "/api/audit/export"),
    "list_telemetry": Request("GET", "/api/audit/telemetry"),
    "list_dead_letters": Request("GET", "/api/dead-letters/asset_service"),
    "get_dead_letter": Request(
        "GET", "/api/dead-letters/asset_service/00000000-0000-7000-8000-000000000000", answers=(404,)
    ),
    "requeue_dead_letter": Request(
        "POST", "/api/dead-letters/asset_service/00000000-0000-7000-8000-000000000000/requeue", answers=(404,)
    ),
}


def owner_of(caller: str | None, label: str, names: str) -> str:
    """Whose things a cell is about, as the caller sees it."""
    if names == "broker":
        return "broker" if label == OWN else "other_broker"
    if label == OWN:
        return caller or "customer"
    return "assigned" if label == ASSIGNED else "stranger"


def expected(operation: str, caller: str | None, label: str) -> tuple[int, ...]:
    """What the table says; the only place where its cells are read."""
    grants, request = PERMISSIONS[operation], REQUESTS[operation]
    if grants is PUBLIC:
        return request.answers
    if caller is None:
        return (401,)
    scope = grants.get(Role(caller.upper()))
    if scope is None:
        return (403,)
    reach = {Scope.ANY: {OWN, ASSIGNED, FOREIGN}, Scope.ASSIGNED: {OWN, ASSIGNED}, Scope.OWN: {OWN}}[scope]
    if label == "" or label in reach:
        return request.answers
    return (422,) if request.names == "body" else (404,)


def cells() -> Iterator[Any]:
    for operation in PERMISSIONS:
        for caller in CALLERS:
            for label in REQUESTS[operation].owners if operation in REQUESTS else ():
                # Nobody but customers has orders, assets and money of his own.
                if label == OWN and REQUESTS[operation].names in ("thing", "body") and caller != "customer":
                    continue
                name = "-".join(filter(None, (operation, caller or "nobody", label)))
                yield pytest.param(operation, caller, label, id=name)


def call(world: World, operation: str, caller: str | None, owner: str, *, api_scopes: list[str] | None = None) -> Any:
    request, who = REQUESTS[operation], world.people[owner]
    known = {"read": new_id(), "cancel": new_id(), "match": new_id(), "notification": new_id()}
    known |= world.things.get(who, {})
    saga = world.things[world.people["stranger"]]["read"]
    path = request.path.format(who=who, spare=world.people["spare"], saga=saga, **known)
    options: dict[str, Any] = {}
    if request.body is not None:
        options["data" if request.form else "json"] = request.body(world, who)
    return world.request(request.method, path, caller, api_scopes=api_scopes, **options)


@pytest.mark.parametrize(("operation", "caller", "label"), list(cells()))
def test_a_cell(world: World, operation: str, caller: str | None, label: str) -> None:
    answer = call(world, operation, caller, owner_of(caller, label, REQUESTS[operation].names))
    assert answer.status_code in expected(operation, caller, label), answer.text
    refusal = {401: "invalid-token", 403: "not-permitted"}.get(answer.status_code)
    assert refusal is None or answer.json()["code"] == refusal
    if expected(operation, caller, label) == (422,) and REQUESTS[operation].names == "body":
        assert answer.json()["errors"][0]["pointer"] == "/customer_id"


@pytest.mark.parametrize(
    ("operation", "scope"),
    [(name, scope) for name, grants in PERMISSIONS.items() if grants is not PUBLIC for scope in ApiScope],
)
def test_a_program_does_what_its_scope_and_its_owners_role_allow(world: World, operation: str, scope: ApiScope) -> None:
    role = next(iter(PERMISSIONS[operation]))
    caller = role.value.lower()
    owner = caller if REQUESTS[operation].names == "customer" else owner_of(caller, FOREIGN, REQUESTS[operation].names)
    answer = call(world, operation, caller, owner, api_scopes=[scope.value])
    if scope in API_SCOPES.get(operation, ()):
        assert answer.status_code in REQUESTS[operation].answers, answer.text
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient-scope")


def test_a_scope_never_goes_beyond_the_role(world: World) -> None:
    for operation in ("deposit", "run_matching", "list_customers"):
        answer = call(world, operation, "customer", "customer", api_scopes=[scope.value for scope in ApiScope])
        assert answer.json()["code"] == "not-permitted"


def test_every_operation_has_a_request_here() -> None:
    assert REQUESTS.keys() == PERMISSIONS.keys()


def test_every_route_of_the_openapi_document_has_its_row(world: World) -> None:
    document = world.client.get("/openapi.json").json()
    served = [
        operation["operationId"].partition("__")[0]
        for path in document["paths"].values()
        for operation in path.values()
    ]
    assert set(served) == PERMISSIONS.keys()


@pytest.mark.parametrize(
    ("path", "caller"),
    [
        (path, caller)
        for path in ("/api/orders", "/api/assets", "/api/reservations", "/api/transfers")
        for caller in ("customer", "broker", "admin")
        if (path, caller) != ("/api/transfers", "customer")
    ],
)
def test_a_collection_shows_whom_the_cell_reaches_and_nobody_else(world: World, path: str, caller: str) -> None:
    found = {entry["customer_id"] for entry in world.request("GET", f"{path}?limit=200", caller).json()["data"]}
    reach = {
        "customer": {"customer"},
        "broker": {"broker", "assigned", "spare"},
        "admin": set(world.people),
    }[caller]
    assert found <= {world.people[name] for name in reach}
    assert world.people[{"customer": "customer", "broker": "assigned", "admin": "stranger"}[caller]] in found


@pytest.mark.parametrize("path", ["/api/orders/{}", "/api/orders/{}/events", "/api/sagas/{}"])
def test_what_is_not_yours_reads_like_what_does_not_exist(world: World, path: str) -> None:
    caller = "admin" if "sagas" in path else "customer"
    foreign = world.things[world.people["stranger"]]["read"] if caller == "customer" else new_id()
    answers = [world.request("GET", path.format(each), caller).json() for each in (foreign, new_id())]
    for answer in answers:
        del answer["instance"]
    assert answers[0] == answers[1]
