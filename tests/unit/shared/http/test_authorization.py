"""Every cell of the table of permissions, over the real routes of all services: who is not in it gets 401 or 403, at once.

The services' resources are never opened: a refusal must come before anything of theirs is touched.
"""

import asyncio
import importlib
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.app import EdgeSettings, ServiceApi, create_app
from shared.auth import keys, tokens
from shared.auth.permissions import PERMISSIONS, PUBLIC, Role, Scope
from shared.auth.principals import CachedDirectory, Principal
from shared.errors import NotFound, NotPermitted
from shared.http.route import EdgeRoute, admit
from shared.http.state import Matched, RequestState
from shared.messaging import seal

SERVICES = ("customer_service", "order_service", "asset_service", "processor", "notifier", "auditor")
IDS = {role: number for number, role in enumerate(Role, start=1)}
STRANGER = 77


class Untouched:
    """Resources of which only the directory may be asked."""

    def __init__(self) -> None:
        self.principals = CachedDirectory(_principals)

    def ready(self) -> None: ...

    def close(self) -> None: ...


def _principals(ids: Collection[int]) -> list[Principal]:
    return [principal for principal in map(_principal, ids) if principal is not None]


def _principal(customer_id: int) -> Principal | None:
    roles = {number: role for role, number in IDS.items()} | {STRANGER: Role.CUSTOMER}
    if customer_id not in roles:
        return None
    return Principal(
        customer_id=customer_id,
        username="somebody",
        role=roles[customer_id],
        tier="STANDARD",
        tier_priority=1,
        rate_limit=10**6,
        fee_rate=Decimal(0),
        fee_minimum=Decimal(0),
        active=True,
        tokens_valid_from=datetime(2020, 1, 1, tzinfo=UTC),
        organization_id="o",
        beneficial_owner_id=customer_id,
    )


APIS = [importlib.import_module(f"{name}.app").api for name in SERVICES]
ROUTES = [route for api in APIS for route in api.router.routes if isinstance(route, EdgeRoute)]
GUARDED = [route for route in ROUTES if route.grants is not PUBLIC]


@dataclass
class Guard:
    client: TestClient
    key: Any

    def call(self, route: EdgeRoute, role: Role | None, owner: int = STRANGER) -> Any:
        path = route.path_format
        for name in route.param_convertors:
            path = path.replace(f"{{{name}}}", str(owner))
        [method] = route.methods
        headers = {}
        if role is not None:
            headers["Authorization"] = "Bearer " + tokens.issue(self.key, customer_id=IDS[role], session_id="s")
        return self.client.request(method, path, headers=headers)


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    directory: Path = tmp_path_factory.mktemp("keys")
    keys.ensure(directory)
    seal.ensure(directory)
    settings = EdgeSettings(redis_url="redis://127.0.0.1:1/0", key_dir=str(directory), jwks_url=None)
    apis = [ServiceApi(api.name, api.router, lambda _: Untouched()) for api in APIS]
    with TestClient(create_app(apis, settings), raise_server_exceptions=False) as client:
        yield Guard(client, keys.load_signing_key(directory))


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.operation_id)
def test_nobody_gets_in_without_a_token(guard: Guard, route: EdgeRoute) -> None:
    assert guard.call(route, None).json()["code"] == "invalid-token"


@pytest.mark.parametrize(
    ("route", "role"),
    [
        pytest.param(route, role, id=f"{route.operation_id}-{role}")
        for route in GUARDED
        for role in Role
        if role not in route.grants
    ],
)
def test_a_role_without_a_grant_gets_403(guard: Guard, route: EdgeRoute, role: Role) -> None:
    assert guard.call(route, role).json()["code"] == "not-permitted"


@pytest.mark.parametrize(
    ("route", "role"),
    [
        pytest.param(route, role, id=f"{route.operation_id}-{role}")
        for route in GUARDED
        for role, scope in route.grants.items()
        if scope is not Scope.ANY and {"customer_id", "broker_id"} & route.param_convertors.keys()
    ],
)
def test_a_path_of_somebody_else_gets_404(guard: Guard, route: EdgeRoute, role: Role) -> None:
    strangers, nobodys = guard.call(route, role), guard.call(route, role, owner=2**50)
    assert strangers.json()["code"] == nobodys.json()["code"] == "not-found"


def test_the_event_loop_never_asks_the_store_whose_a_path_is() -> None:
    asked_in: list[threading.Thread] = []

    def load(ids: Collection[int]) -> list[Principal]:
        asked_in.append(threading.current_thread())
        return _principals(ids)

    directory = CachedDirectory(load, cache_seconds=0.1)
    broker = directory.get(IDS[Role.BROKER])
    directory.get(STRANGER)
    time.sleep(0.11)
    assert directory.peek(IDS[Role.BROKER]) is None, "he loads anew, and meanwhile what is known of others is believed"
    asked_in.clear()
    matched = Matched("/api/assets/{customer_id}", path_params={"customer_id": str(STRANGER)})
    state = RequestState("c", "t", "a", matched, principal=broker)
    with pytest.raises(NotFound):
        asyncio.run(admit(state, {Role.BROKER: Scope.ASSIGNED}, directory))
    assert threading.main_thread() not in asked_in


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.operation_id)
def test_a_new_role_is_a_cell_of_the_table_and_no_change_of_an_endpoint(route: EdgeRoute) -> None:
    partner = replace(_principal(STRANGER), role="PARTNER")  # type: ignore[type-var, arg-type]
    state = RequestState("c", "t", "a", Matched(route.path_format, route=route), principal=partner)
    with pytest.raises(NotPermitted):
        asyncio.run(admit(state, route.grants, Untouched().principals))
    row = {**route.grants, "PARTNER": Scope.ASSIGNED}
    assert asyncio.run(admit(state, row, Untouched().principals)).scope is Scope.ASSIGNED  # type: ignore[arg-type]


def test_every_call_of_the_contract_has_its_route() -> None:
    served = {str(route.operation_id).partition("__")[0] for route in ROUTES}
    system = {"get_live", "get_ready", "get_metrics", "get_problem"}
    assert served | system >= set(PERMISSIONS)
    assert served <= set(PERMISSIONS)
