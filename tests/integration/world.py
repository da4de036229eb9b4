"""All six services behind one edge, in this process, on databases of their own, with somebody in every role."""

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from asset_service.service.instruments import put_instrument
from asset_service.service.transfers import deposit
from customer_service.service.customers import Registration, ensure_assignment, ensure_customer
from infra.servers import DATABASES
from infra.services import SERVICES, load
from shared import encryption
from shared.app import create_app
from shared.auth import keys, tokens
from shared.auth.permissions import Role
from shared.ids import new_id
from shared.messaging import seal
from shared.testing.pump import Pump
from shared.testing.servers import LocalMongo

ORDER = {"asset_name": "AAPL", "order_side": "SELL", "order_type": "LIMIT", "price": "10", "time_in_force": "GTC"}


@dataclass
class World:
    """`people` by name: a caller for each role (`admin`, `broker`, `auditor`, `customer`), one `assigned` to the broker,
    one who is nobody's (`stranger`), and another broker with a customer of his own."""

    client: TestClient
    pump: Pump
    key: keys.SigningKey
    resources: dict[str, Any]
    environment: dict[str, str]
    people: dict[str, int] = field(default_factory=dict)
    things: dict[int, dict[str, str]] = field(default_factory=dict)

    def request(
        self, method: str, path: str, caller: str | None, *, api_scopes: list[str] | None = None, **options: Any
    ) -> Any:
        """`api_scopes`: as a program that signed in with a key of the caller's."""
        headers = {"Idempotency-Key": new_id()} if method == "POST" else {}
        headers |= self.credentials(caller, api_scopes)
        return self.client.request(method, path, headers=headers | options.pop("headers", {}), **options)

    def credentials(self, caller: str | None, api_scopes: list[str] | None = None) -> dict[str, str]:
        """The header that says who calls; none for nobody."""
        if caller is None:
            return {}
        token = tokens.issue(self.key, customer_id=self.people[caller], session_id=new_id(), api_scopes=api_scopes)
        return {"Authorization": f"Bearer {token}"}

    def register(self, name: str, role: Role = Role.CUSTOMER) -> int:
        registration = Registration(username=f"{name}-{secrets.token_hex(4)}", password_hash="none", role=role)
        self.people[name] = ensure_customer(self.resources["customer_service"].database, registration)
        return self.people[name]

    def username(self, name: str) -> str:
        principal = self.resources["customer_service"].principals.get(self.people[name])
        return str(principal.username)

    def live(self) -> None:
        """Everybody, and what a customer has after a while: money, shares, orders on the book, notifications."""
        for role in (Role.ADMIN, Role.BROKER, Role.AUDITOR):
            self.register(role.value.lower(), role)
        self.register("other_broker", Role.BROKER)
        for name in ("customer", "assigned", "stranger", "spare"):
            self.register(name)
        database = self.resources["customer_service"].database
        for broker, customer in (("broker", "assigned"), ("broker", "spare"), ("other_broker", "spare")):
            ensure_assignment(database, self.people[broker], self.people[customer])
        assets = self.resources["asset_service"].database
        assets.run(lambda uow: put_instrument(uow, asset_name="TRY", quote_asset=None, size_scale=8))
        for share in ("AAPL", "THYAO"):
            terms = {"asset_name": share, "quote_asset": "TRY", "size_scale": 6, "price_scale": 2}
            assets.run(lambda uow, terms=terms: put_instrument(uow, **terms))
        self.pump.drain()
        for name in ("customer", "assigned", "stranger"):
            self._equip(name)
        self.pump.drain()
        for name in ("customer", "assigned", "stranger"):
            [notification, *_] = self.request("GET", "/api/notifications", name).json()["data"]
            self.things[self.people[name]]["notification"] = notification["id"]

    def _equip(self, name: str) -> None:
        customer_id = self.people[name]
        for asset_name in ("TRY", "AAPL"):
            terms = {"customer_id": customer_id, "asset_name": asset_name, "amount": Decimal(1000)}
            self.resources["asset_service"].database.run(
                lambda uow, terms=terms: deposit(uow, **terms, reference=new_id())
            )
        self.things[customer_id] = {}
        for purpose in ("read", "cancel", "match"):
            body = {**ORDER, "size": "1", "client_order_id": purpose}
            answer = self.request("POST", "/api/orders", name, json=body)
            assert answer.status_code == 201, answer.text
            self.things[customer_id][purpose] = answer.json()["id"]


@contextmanager
def open_world(servers: Any, directory: Path) -> Iterator[World]:
    """A world on fresh databases of `servers`, with its keys and documents in `directory`."""
    keys.ensure(directory / "keys")
    encryption.ensure(directory / "keys")
    seal.ensure(directory / "keys")
    mongo = LocalMongo(directory / "mongo.sqlite")
    environment = dict(servers.env) | {
        "BROKAGE_KEY_DIR": str(directory / "keys"),
        "BROKAGE_MONGO_URL": mongo.url,
        **{DATABASES[service][1]: servers.fresh_database(service) for service in DATABASES},
    }
    with ExitStack() as stack:
        stack.callback(mongo.stop)
        # Settings are read once, when the process starts; nothing is left in the environment for other tests.
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            app = create_app([load(service, "app").api for service in SERVICES])
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
        pump = stack.enter_context(Pump(environment))
        world = World(client, pump, keys.load_signing_key(directory / "keys"), app.state.services, environment)
        world.live()
        yield world
