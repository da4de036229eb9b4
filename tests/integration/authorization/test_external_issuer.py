"""An external OIDC issuer replaces ours: a second issuer in a process of its own, with its own keys."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from infra.services import SERVICES, load
from shared.app import EdgeSettings, create_app
from shared.auth import tokens
from tests.integration.world import World


class Issuer:
    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("oidc_issuer.py"))]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"

    def token(self, **wish: Any) -> str:
        token: str = self._post("/token", wish)["access_token"]
        return token

    def publish(self, key: str) -> None:
        self._post("/publish", {"key": key})

    def requests(self) -> list[str]:
        with urlopen(self.url + "/requests", timeout=5) as answer:
            asked: list[str] = json.loads(answer.read())
        return asked

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _post(self, path: str, document: Any) -> Any:
        with urlopen(Request(self.url + path, json.dumps(document).encode()), timeout=5) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    issuer = Issuer()
    yield issuer
    issuer.stop()


@pytest.fixture(scope="module")
def serve(world: World) -> Iterator[Callable[..., TestClient]]:
    """Another API process of all services, on the world's databases, that believes the issuer it is told."""
    with ExitStack() as stack:

        def start(issuer: str, **settings: Any) -> TestClient:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in world.environment.items():
                    patch.setenv(name, value)
                believes = EdgeSettings(oidc_issuer=issuer, oidc_audience="brokage", **settings)
                app = create_app([load(service, "app").api for service in SERVICES], believes)
                return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


@pytest.fixture(scope="module")
def client(serve: Callable[..., TestClient], issuer: Issuer) -> TestClient:
    return serve(issuer.url)


def ask(client: TestClient, token: str, path: str = "/api/me") -> Any:
    return client.get(path, headers={"Authorization": f"Bearer {token}"})


def named(world: World, person: str) -> dict[str, Any]:
    return {"preferred_username": world.username(person)}


class TestItsTokens:
    @pytest.mark.parametrize("key", ["rsa", "ec", "ed"])
    def test_are_taken_whatever_good_key_signed_them(
        self, client: TestClient, issuer: Issuer, world: World, key: str
    ) -> None:
        answer = ask(client, issuer.token(key=key, claims=named(world, "customer")))
        assert answer.json()["customer_id"] == world.people["customer"]
        assert answer.json()["role"] == "CUSTOMER"

    @pytest.mark.parametrize("path", ["/api/orders", "/api/assets", "/api/trades", "/api/notifications"])
    def test_work_in_every_service_with_the_role_that_is_ours_to_say(
        self, client: TestClient, issuer: Issuer, world: World, path: str
    ) -> None:
        token = issuer.token(claims={**named(world, "customer"), "role": "ADMIN", "realm_access": {"roles": ["ADMIN"]}})
        assert ask(client, token, path).status_code == 200
        assert ask(client, token, "/api/sagas").status_code == 403
        assert ask(client, issuer.token(claims=named(world, "auditor")), "/api/audit/logs").status_code == 200

    def test_name_a_customer_by_his_id_where_that_is_agreed(
        self, serve: Callable[..., TestClient], issuer: Issuer, world: World
    ) -> None:
        client = serve(issuer.url, oidc_customer_claim="customer_id", oidc_customer_by="id")
        token = issuer.token(claims={"customer_id": str(world.people["broker"])})
        assert ask(client, token).json()["role"] == "BROKER"
        assert ask(client, issuer.token(claims={"customer_id": "-1"})).status_code == 401

    def test_of_somebody_who_has_no_account_here_get_him_nowhere(self, client: TestClient, issuer: Issuer) -> None:
        answer = ask(client, issuer.token(claims={"preferred_username": "nobody-here"}))
        assert (answer.status_code, answer.json()["code"]) == (503, "not-yet-known")

    @pytest.mark.parametrize(
        "wish",
        [
            {"claims": {"aud": "another-api"}},
            {"claims": {"aud": ["account"]}},
            {"claims": {"iss": "http://127.0.0.1:1"}},
            {"claims": {"exp": 1}},
            {"claims": {"exp": None}},
            {"claims": {"iat": None}},
            {"claims": {"sub": None}},
            {"claims": {"nbf": 4_000_000_000}},
            {"claims": {"typ": "ID"}},
            {"claims": {"typ": "Refresh"}},
            {"claims": {"nonce": "n"}},
            {"claims": {"at_hash": "h"}},
            {"claims": {"preferred_username": None}},
            {"claims": {"preferred_username": ["a"]}},
            {"header": {"typ": "id+jwt"}},
            {"header": {"jku": "http://127.0.0.1:1/keys"}},
            {"header": {"crit": ["x"], "x": 1}},
            {"header": {"kid": "ec"}},
            {"header": {"kid": "secret"}},
            {"key": "weak"},
            {"key": "unpublished"},
        ],
        ids=str,
    )
    def test_are_refused_when_they_are_not_access_tokens_for_us(
        self, client: TestClient, issuer: Issuer, world: World, wish: dict[str, Any]
    ) -> None:
        claims = {**named(world, "customer"), **wish.get("claims", {})}
        answer = ask(client, issuer.token(**{**wish, "claims": claims}))
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid-token")
        assert set(issuer.requests()) <= {"/.well-known/openid-configuration", "/keys", "/requests"}

    def test_of_ours_are_not_taken_any_more(self, client: TestClient, world: World) -> None:
        ours = tokens.issue(world.key, customer_id=world.people["customer"], session_id="s")
        assert ask(client, ours).status_code == 401


class TestTheIssuer:
    def test_signs_people_in_so_we_do_not(self, client: TestClient) -> None:
        form = {"grant_type": "password", "username": "a", "password": "b"}
        answer = client.post("/api/auth/token", data=form)
        assert (answer.status_code, answer.json()["code"]) == (403, "sign-in-elsewhere")

    def test_may_bring_a_new_key_at_any_time(
        self, serve: Callable[..., TestClient], issuer: Issuer, world: World
    ) -> None:
        token = issuer.token(key="unpublished", claims=named(world, "customer"))
        issuer.publish("unpublished")
        assert ask(serve(issuer.url), token).status_code == 200

    def test_may_go_away_and_what_it_signed_goes_on_working(
        self, serve: Callable[..., TestClient], world: World
    ) -> None:
        issuer = Issuer()
        client = serve(issuer.url)
        later = issuer.token(claims=named(world, "stranger"))
        assert ask(client, issuer.token(claims=named(world, "customer"))).status_code == 200
        issuer.stop()
        assert ask(client, later).status_code == 200

    def test_that_is_away_from_the_start_lets_nobody_in_and_breaks_nothing(
        self, serve: Callable[..., TestClient], issuer: Issuer, world: World
    ) -> None:
        client = serve("http://127.0.0.1:1")
        answer = ask(client, issuer.token(claims=named(world, "customer")))
        assert (answer.status_code, answer.json()["code"]) == (503, "service-unavailable")
        assert client.get("/health/live").status_code == 200

    def test_whose_discovery_names_another_is_not_believed(
        self, serve: Callable[..., TestClient], issuer: Issuer, world: World
    ) -> None:
        alias = issuer.url.replace("127.0.0.1", "localhost")
        token = issuer.token(claims={**named(world, "customer"), "iss": alias})
        assert ask(serve(alias), token).status_code == 401

    @pytest.mark.parametrize(
        "settings",
        [
            {"oidc_issuer": "https://issuer.example"},
            {"oidc_issuer": "http://issuer.example", "oidc_audience": "brokage"},
            {"oidc_issuer": "file:///etc", "oidc_audience": "brokage"},
        ],
        ids=str,
    )
    def test_is_configured_whole_and_over_https(self, settings: dict[str, str]) -> None:
        with pytest.raises(ValidationError):
            EdgeSettings(**settings)
