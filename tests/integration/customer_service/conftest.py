"""customer_service behind its edge, in this process, on real servers."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
import redis
from fastapi.testclient import TestClient

from customer_service.app import create
from customer_service.dependencies import CustomerResources
from customer_service.service import customers
from customer_service.service.customers import Registration
from shared import encryption
from shared.auth import keys
from shared.auth.permissions import Role
from shared.messaging import seal

PASSWORD = "correct horse"


@dataclass
class Api:
    """A client, and short ways to what every test needs."""

    client: TestClient
    resources: CustomerResources
    database_url: str
    valkey: Any
    tokens: dict[str, str] = field(default_factory=dict)

    def request(self, method: str, path: str, user: str | None = None, **options: Any) -> Any:
        headers = dict(options.pop("headers", {}))
        if user is not None:
            headers["Authorization"] = f"Bearer {self.token(user)}"
        return self.client.request(method, path, headers=headers, **options)

    def sign_in(self, username: str, password: str = PASSWORD) -> Any:
        form = {"grant_type": "password", "username": username, "password": password}
        return self.client.post("/api/auth/token", data=form)

    def token(self, username: str) -> str:
        if username not in self.tokens:
            answer = self.sign_in(username)
            assert answer.status_code == 200, answer.text
            self.tokens[username] = answer.json()["access_token"]
        return self.tokens[username]

    def customer(self, *, role: Role = Role.CUSTOMER, tier: str = "STANDARD", **values: Any) -> "Person":
        """Somebody new."""
        username = f"{role.value.lower()}-{secrets.token_hex(6)}"
        registration = Registration(
            username=username, password_hash=self.resources.passwords.hash(PASSWORD), role=role, tier=tier, **values
        )
        return Person(customers.ensure_customer(self.resources.database, registration), username)

    def events(self, customer_id: int, reader: str = "auditor") -> list[dict[str, Any]]:
        """What was said of a customer to `reader`, in order."""
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute(
                "SELECT payload FROM outbox_events WHERE destination = %s ORDER BY lane, seq", [reader]
            ).fetchall()
        messages = [message for (payload,) in rows for message in payload]
        return [message for message in messages if message["aggregate_id"] == str(customer_id)]

    def execute(self, statement: str, *values: Any) -> None:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement, values)


@dataclass(frozen=True)
class Person:
    id: int
    username: str


@pytest.fixture(scope="session")
def api(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    directory = tmp_path_factory.mktemp("keys")
    keys.ensure(directory)
    encryption.ensure(directory)
    seal.ensure(directory)
    with ExitStack() as stack:
        # Settings are read once, when the process starts; nothing is left in the environment for other tests.
        with pytest.MonkeyPatch.context() as patch:
            for name, value in servers.env.items():
                patch.setenv(name, value)
            patch.setenv("BROKAGE_KEY_DIR", str(directory))
            patch.setenv("BROKAGE_ARGON2_MEMORY_KIB", "64")
            patch.setenv("BROKAGE_ARGON2_TIME_COST", "1")
            app = create()
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
        valkey = redis.Redis.from_url(servers.env["BROKAGE_REDIS_URL"])
        resources = app.state.services["customer_service"]
        yield Api(client, resources, servers.env["BROKAGE_CUSTOMERS_DATABASE_URL"], valkey)


@pytest.fixture(autouse=True)
def fresh_limits(api: Api) -> None:
    """Each test starts with full buckets; they all come from one address."""
    api.valkey.flushdb()


@pytest.fixture(scope="session")
def admin(api: Api) -> Person:
    return api.customer(role=Role.ADMIN)


@pytest.fixture
def customer(api: Api) -> Person:
    return api.customer()


@pytest.fixture
def broker(api: Api) -> Person:
    return api.customer(role=Role.BROKER)
