"""order_service behind its edge, in this process, on real servers. What other services would say is handed to its handler."""

import itertools
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from order_service.app import create
from order_service.dependencies import OrderResources
from order_service.tasks import handle
from shared.auth import keys, tokens
from shared.auth.permissions import Role
from shared.contracts.assets import InstrumentChanged
from shared.contracts.customers import CustomerRegistered, CustomerState
from shared.contracts.message import Command, Event, Message, contract_of
from shared.contracts.orders import ConfirmOrder
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.messaging import seal

TERMS = {
    "asset_name": "AAPL",
    "order_side": "BUY",
    "order_type": "LIMIT",
    "size": "10",
    "price": "12.5",
    "time_in_force": "GTC",
}
_customer_ids = itertools.count(secrets.randbelow(2**40) + 1000)


def message_of(payload: Event | Command, aggregate_id: str, *, version: int = 1) -> Message[Any]:
    known = contract_of(payload)
    return Message(
        event_id=new_id(),
        type=known.name,
        occurred_at=datetime.now(UTC),
        aggregate_type=known.aggregate_type,
        aggregate_id=aggregate_id,
        aggregate_version=version,
        organization_id=ROOT_ORGANIZATION_ID,
        correlation_id=new_id(),
        payload=payload,
    )


def filled(command: type[Any], size: str, price: str = "12.5") -> Any:
    """A command with the totals of fills of `size` at `price`."""
    return command(filled_size=Decimal(size), filled_notional=Decimal(size) * Decimal(price), fee_amount=Decimal(0))


@dataclass
class Api:
    """A client, and short ways to what every test needs."""

    client: TestClient
    resources: OrderResources
    database_url: str
    issue: Callable[[int], str]
    states: dict[int, CustomerState] = field(default_factory=dict)

    def request(self, method: str, path: str, user: int | None = None, **options: Any) -> Any:
        headers = dict(options.pop("headers", {}))
        if user is not None:
            headers["Authorization"] = f"Bearer {self.issue(user)}"
        return self.client.request(method, path, headers=headers, **options)

    def place(self, user: int, *, key: str | None = None, headers: dict[str, str] | None = None, **terms: Any) -> Any:
        """POST of an order; with a `client_order_id` of its own unless the test cares."""
        body = {**TERMS, **terms}
        if key is None and "client_order_id" not in body:
            body["client_order_id"] = new_id()
        given = {**(headers or {}), **({"Idempotency-Key": key} if key else {})}
        return self.request("POST", "/api/orders", user, json=body, headers=given)

    def placed(self, user: int, **terms: Any) -> dict[str, Any]:
        answer = self.place(user, **terms)
        assert answer.status_code == 201, answer.text
        order: dict[str, Any] = answer.json()
        return order

    def confirmed(self, user: int, **terms: Any) -> dict[str, Any]:
        order = self.placed(user, **terms)
        self.command(order, ConfirmOrder())
        return self.order(order["id"], user)

    def order(self, order_id: str, user: int) -> dict[str, Any]:
        answer = self.request("GET", f"/api/orders/{order_id}", user)
        assert answer.status_code == 200, answer.text
        order: dict[str, Any] = answer.json()
        return order

    def history(self, order_id: str, user: int) -> list[dict[str, Any]]:
        answer = self.request("GET", f"/api/orders/{order_id}/events", user)
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    def command(self, order: dict[str, Any], *payloads: Command) -> None:
        """Hand commands for one order to the handler, in one batch."""
        self.handle([message_of(payload, order["id"]) for payload in payloads])

    def handle(self, messages: Sequence[Message[Any]]) -> None:
        self.resources.database.run(lambda uow: handle(uow, messages))

    def customer(self, *, role: Role = Role.CUSTOMER, brokers: tuple[int, ...] = (), **values: Any) -> int:
        """Somebody new, as customer_service would tell of him."""
        customer_id = next(_customer_ids)
        state = CustomerRegistered(
            customer_id=customer_id,
            username=f"{role.value.lower()}-{customer_id}",
            role=role.value,
            tier="VIP",
            tier_priority=1,
            rate_limit=1_000_000,
            fee_rate=values.pop("fee_rate", Decimal(0)),
            fee_minimum=Decimal(0),
            active=values.pop("active", True),
            tokens_valid_from=datetime(2020, 1, 1, tzinfo=UTC),
            beneficial_owner_id=customer_id,
            brokers=brokers,
        )
        self.states[customer_id] = state
        self.handle([message_of(state, str(customer_id))])
        return customer_id

    def says(self, order_id: str, reader: str = "processor") -> list[str]:
        """The types of what was said of an order to `reader`, in order."""
        return [message["type"] for message in self.messages(order_id, reader)]

    def messages(self, order_id: str, reader: str = "processor") -> list[dict[str, Any]]:
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute(
                "SELECT payload FROM outbox_events WHERE destination = %s"
                " AND payload::jsonb @> jsonb_build_array(jsonb_build_object('aggregate_id', %s::text)) ORDER BY lane, seq",
                [reader, order_id],
            ).fetchall()
        return [message for (payload,) in rows for message in payload if message["aggregate_id"] == order_id]

    def count(self, statement: str, *values: Any) -> int:
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(statement, values).fetchone()
        assert row is not None
        return int(row[0])

    def together(self, count: int, work: Callable[[int], Any]) -> list[Any]:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(work, range(count)))


@contextmanager
def serving(environment: Mapping[str, str], directory: Path) -> Iterator[Api]:
    """The service over the stores of `environment`, with a signing key in `directory`."""
    keys.ensure(directory)
    seal.ensure(directory)
    key = keys.load_signing_key(directory)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("BROKAGE_KEY_DIR", str(directory))
        app = create()
        with TestClient(app, raise_server_exceptions=False) as client:
            api = Api(
                client,
                app.state.services["order_service"],
                environment["BROKAGE_ORDERS_DATABASE_URL"],
                lambda customer_id: tokens.issue(key, customer_id=customer_id, session_id=new_id()),
            )
            api.handle([message_of(instrument("AAPL"), "AAPL"), message_of(cash("TRY"), "TRY")])
            yield api


@pytest.fixture(scope="session")
def api(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(servers.env, tmp_path_factory.mktemp("keys")) as api:
        yield api


def instrument(name: str, **values: Any) -> InstrumentChanged:
    terms = {"quote_asset": "TRY", "size_scale": 6, "price_scale": 2, "quote_scale": 8, "status": "TRADING", **values}
    return InstrumentChanged(asset_name=name, **terms)


def cash(name: str) -> InstrumentChanged:
    return instrument(name, quote_asset=None, size_scale=8, price_scale=0)


@pytest.fixture(scope="session")
def admin(api: Api) -> int:
    return api.customer(role=Role.ADMIN)


@pytest.fixture
def customer(api: Api) -> int:
    return api.customer()


@pytest.fixture
def broker(api: Api) -> int:
    return api.customer(role=Role.BROKER)
