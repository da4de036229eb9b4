"""asset_service behind its edge and behind its queue's handler, in this process, on real servers."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import psycopg
import pytest
import redis
from fastapi.testclient import TestClient

from asset_service.app import create
from asset_service.dependencies import AssetResources
from asset_service.service import instruments, transfers
from asset_service.states import InstrumentStatus
from asset_service.tasks import handle
from shared.auth import keys, tokens
from shared.auth.permissions import Role
from shared.contracts.customers import CustomerDeactivated, CustomerRegistered, CustomerState
from shared.contracts.message import Message
from shared.db import Database
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.messaging import seal

_customer_ids = count(int.from_bytes(secrets.token_bytes(4)) * 10_000 + 1)


@dataclass
class Api:
    """A client, the handler, and short ways to what every test needs."""

    client: TestClient
    resources: AssetResources
    handlers: Database
    database_url: str
    valkey: Any
    key: keys.SigningKey
    tokens: dict[int, str] = field(default_factory=dict)

    def request(self, method: str, path: str, caller: int | None = None, **options: Any) -> Any:
        headers = dict(options.pop("headers", {}))
        if caller is not None:
            if caller not in self.tokens:
                self.tokens[caller] = tokens.issue(self.key, customer_id=caller, session_id=new_id())
            headers["Authorization"] = f"Bearer {self.tokens[caller]}"
        return self.client.request(method, path, headers=headers, **options)

    def handle(self, *messages: Message[Any]) -> None:
        self.handlers.run(lambda uow: handle(uow, messages))

    def answers(self, *aggregate_ids: str, reader: str = "processor") -> list[dict[str, Any]]:
        """What was said of these aggregates to `reader`, in order."""
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute(
                "SELECT m FROM outbox_events, jsonb_array_elements(payload::jsonb) WITH ORDINALITY AS e (m, n)"
                " WHERE destination = %s AND m->>'aggregate_id' = ANY(%s) ORDER BY seq, n",
                [reader, list(aggregate_ids)],
            ).fetchall()
        return [message for (message,) in rows]

    def customer(self, role: Role = Role.CUSTOMER, brokers: tuple[int, ...] = (), **balances: str) -> int:
        """Somebody new, with these deposits."""
        customer_id = next(_customer_ids)
        self.handle(self.state(CustomerRegistered, customer_id, role=role, brokers=brokers))
        for asset_name, amount in balances.items():
            self.handlers.run(
                lambda uow, asset_name=asset_name, amount=amount: transfers.deposit(  # type: ignore[misc]
                    uow, customer_id=customer_id, asset_name=asset_name, amount=Decimal(amount), reference=new_id()
                )
            )
        return customer_id

    def deactivate(self, customer_id: int) -> None:
        self.handle(self.state(CustomerDeactivated, customer_id, version=2, active=False))

    def state(self, event: type[CustomerState], customer_id: int, *, version: int = 1, **values: Any) -> Message[Any]:
        fields: dict[str, Any] = {
            "customer_id": customer_id,
            "username": f"customer-{customer_id}",
            "role": Role.CUSTOMER,
            "tier": "TEST",
            "tier_priority": 1,
            "rate_limit": 100_000,
            "fee_rate": Decimal(0),
            "fee_minimum": Decimal(0),
            "active": True,
            "tokens_valid_from": datetime(2020, 1, 1, tzinfo=UTC),
            "beneficial_owner_id": customer_id,
            **values,
        }
        return Message(
            event_id=new_id(),
            type=event.__name__,
            occurred_at=datetime.now(UTC),
            aggregate_type="customer",
            aggregate_id=str(customer_id),
            aggregate_version=version,
            customer_id=customer_id,
            organization_id=ROOT_ORGANIZATION_ID,
            correlation_id=new_id(),
            payload=event(**fields),
        )

    def balance(self, customer_id: int, asset_name: str) -> tuple[Decimal, Decimal]:
        rows = self.query(
            "SELECT size, usable_size FROM assets WHERE customer_id = %s AND asset_name = %s", customer_id, asset_name
        )
        return (rows[0][0], rows[0][1]) if rows else (Decimal(0), Decimal(0))

    def query(self, statement: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            return connection.execute(statement, values).fetchall()

    def execute(self, *statements: str) -> None:
        """As an intruder would: without the append-only triggers."""
        with psycopg.connect(self.database_url) as connection:
            for table in ("ledger_entries", "ledger_transactions"):
                connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            for statement in statements:
                connection.execute(statement)
            for table in ("ledger_entries", "ledger_transactions"):
                connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


@pytest.fixture(scope="session")
def api(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    directory = tmp_path_factory.mktemp("keys")
    keys.ensure(directory)
    seal.ensure(directory)
    url = servers.env["BROKAGE_ASSETS_DATABASE_URL"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.env.items():
            patch.setenv(name, value)
        patch.setenv("BROKAGE_KEY_DIR", str(directory))
        app = create()
        handlers = Database(url, name="asset_service worker", pool_size=8, handler_limits=True)
        with TestClient(app, raise_server_exceptions=False) as client:
            resources = app.state.services["asset_service"]
            valkey = redis.Redis.from_url(servers.env["BROKAGE_REDIS_URL"])
            api = Api(client, resources, handlers, url, valkey, keys.load_signing_key(directory))
            _define_instruments(handlers)
            yield api
        handlers.close()


def _define_instruments(database: Database) -> None:
    def work(uow: Any) -> None:
        instruments.put_instrument(uow, asset_name="TRY", quote_asset=None, size_scale=8)
        for name in ("AAPL", "GOOGL"):
            instruments.put_instrument(uow, asset_name=name, quote_asset="TRY", size_scale=6, price_scale=2)
        instruments.put_instrument(
            uow, asset_name="HLT", quote_asset="TRY", size_scale=6, price_scale=2, status=InstrumentStatus.HALTED
        )

    database.run(work)


@pytest.fixture(scope="session")
def admin(api: Api) -> int:
    return api.customer(Role.ADMIN)


@pytest.fixture(scope="session")
def auditor(api: Api) -> int:
    return api.customer(Role.AUDITOR)
