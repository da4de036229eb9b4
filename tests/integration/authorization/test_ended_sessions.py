"""A session that was ended is refused by every service within five seconds, also where Valkey does not remember it."""

import secrets
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from customer_service.service.customers import Registration, ensure_customer
from shared.auth.permissions import Role
from tests.integration.world import World, open_world

PASSWORD = "correct horse"
PATHS = {
    "customer_service": "/api/me",
    "order_service": "/api/orders",
    "asset_service": "/api/assets",
    "processor": "/api/trades",
    "notifier": "/api/notifications",
    "auditor": "/api/audit/logs",
}
EFFECTIVE_SECONDS = 5.0


class Somebody:
    """An admin, who may ask every service, with sessions and keys of his own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.username = f"leaver-{secrets.token_hex(4)}"
        resources = world.resources["customer_service"]
        hashed = resources.passwords.hash(PASSWORD)
        self.id = ensure_customer(resources.database, Registration(self.username, hashed, role=Role.ADMIN))
        world.pump.drain()

    def grant(self, **form: str) -> Any:
        answer = self.world.client.post("/api/auth/token", data=form)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def sign_in(self) -> Any:
        return self.grant(grant_type="password", username=self.username, password=PASSWORD)

    def program(self, session: Any) -> tuple[dict[str, str], Any]:
        """How a new key is exchanged, and what it was exchanged for."""
        body = {"name": "robot", "scopes": ["read"], "current_password": PASSWORD}
        key = self.ask("POST", "/api/api-keys", session, json=body).json()
        grant = {"grant_type": "client_credentials", "client_id": key["id"], "client_secret": key["secret"]}
        return grant, self.grant(**grant)

    def sign_out(self, token: str) -> None:
        assert self.world.client.post("/api/auth/revoke", data={"token": token}).status_code == 204

    def ask(self, method: str, path: str, session: Any, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {session['access_token']}"}
        return self.world.client.request(method, path, headers=headers, **options)

    def answers(self, session: Any) -> dict[str, int]:
        """What each service answers to the session's access token."""
        return {service: self.ask("GET", path, session).status_code for service, path in PATHS.items()}


def end(somebody: Somebody, how: str) -> Any:
    """A session with an access token that every service has taken, ended."""
    session = somebody.sign_in()
    key, program = somebody.program(session)
    ended = program if how in ("revoked key", "signed out program") else session
    assert set(somebody.answers(ended).values()) == {200}
    if how == "signed out":
        somebody.sign_out(session["refresh_token"])
    elif how == "signed out by access token":
        somebody.sign_out(session["access_token"])
    elif how == "signed out program":
        somebody.sign_out(program["access_token"])
    elif how == "revoked key":
        assert somebody.ask("DELETE", f"/api/api-keys/{key['client_id']}", session).status_code == 204
    else:
        renew = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
        somebody.grant(**renew)
        assert somebody.world.client.post("/api/auth/token", data=renew).json()["code"] == "token-reused"
    return ended


def refused_everywhere(somebody: Somebody, session: Any) -> bool:
    deadline = time.monotonic() + EFFECTIVE_SECONDS
    while (found := set(somebody.answers(session).values())) != {401}:
        if time.monotonic() > deadline:
            return False
        assert found <= {200, 401}
        time.sleep(0.1)
    return True


WAYS = ["signed out", "signed out by access token", "signed out program", "revoked key", "refresh token reused"]


@pytest.mark.parametrize("how", WAYS)
def test_with_valkey_flushed(world: World, servers: Any, how: str) -> None:
    somebody = Somebody(world)
    other = somebody.sign_in()
    ended = end(somebody, how)
    redis.Redis.from_url(servers.env["BROKAGE_REDIS_URL"]).flushdb()
    world.pump.drain()
    assert refused_everywhere(somebody, ended)
    assert set(somebody.answers(other).values()) == {200}


def test_a_program_that_signs_out_leaves_others_of_its_key_alone(world: World) -> None:
    somebody = Somebody(world)
    session = somebody.sign_in()
    key, one = somebody.program(session)
    other = somebody.grant(**key)
    assert set(somebody.answers(one).values()) == {200}
    somebody.sign_out(one["access_token"])
    world.pump.drain()
    assert refused_everywhere(somebody, one)
    later = somebody.grant(**key)
    for going_on in (other, later):
        assert set(somebody.answers(going_on).values()) == {200}
    assert somebody.ask("DELETE", f"/api/api-keys/{key['client_id']}", session).status_code == 204
    world.pump.drain()
    for ended in (other, later):
        assert refused_everywhere(somebody, ended)
    assert set(somebody.answers(session).values()) == {200}


@pytest.fixture(scope="module")
def world_without_valkey(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Messages arrive all the same: the pump has no broker."""
    away = {**servers.env, "BROKAGE_REDIS_URL": "redis://127.0.0.1:1/0"}
    stand_in = SimpleNamespace(env=away, fresh_database=servers.fresh_database)
    with open_world(stand_in, tmp_path_factory.mktemp("without-valkey")) as world:
        yield world


@pytest.mark.parametrize("how", WAYS)
def test_with_valkey_away(world_without_valkey: World, how: str) -> None:
    somebody = Somebody(world_without_valkey)
    ended = end(somebody, how)
    world_without_valkey.pump.drain()
    assert refused_everywhere(somebody, ended)
