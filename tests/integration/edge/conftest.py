"""A small service behind the edge, served by a real HTTP server, so that what reaches the edge is what callers send."""

import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import httpx2
import pytest
import redis
import uvicorn
from fastapi import Query
from pydantic import BaseModel

from shared.app import EdgeSettings, ServiceApi, create_app
from shared.auth import keys, tokens
from shared.auth.permissions import Role
from shared.auth.principals import CachedDirectory, Principal
from shared.db.engine import DatabaseUnavailable
from shared.http.caller import Caller
from shared.http.fields import AssetName, Body, CustomerId, CustomerIdText, PositiveDecimal, Timestamp, VisibleId
from shared.http.paging import Paging
from shared.http.prefer import WaitSeconds
from shared.http.route import idempotency_key, service_router
from shared.messaging import seal

TIERS = {"VIP": 1000, "STANDARD": 100, "TINY": 3}


class OrderCreate(Body):
    customer_id: CustomerId | None = None
    client_order_id: VisibleId | None = None
    asset_name: AssetName
    size: PositiveDecimal


class Seen(BaseModel):
    seen: dict[str, Any]


class World:
    """Who there is, and whether the store answers."""

    def __init__(self) -> None:
        self.people: dict[int, Principal] = {}
        self.down = False
        self.hanging = threading.Event()
        self.hanging.set()
        self.checks = 0
        self.directory = CachedDirectory(self._load, cache_seconds=0.05)

    def add(self, role: Role = Role.CUSTOMER, tier: str = "VIP", **values: Any) -> Principal:
        customer_id = secrets.randbelow(2**40) + 1
        person = Principal(
            customer_id=customer_id,
            username=f"user{customer_id}",
            role=role,
            tier=tier,
            tier_priority=1,
            rate_limit=TIERS[tier],
            fee_rate=Decimal(0),
            fee_minimum=Decimal(0),
            active=True,
            tokens_valid_from=datetime(2020, 1, 1, tzinfo=UTC),
            organization_id="o",
            beneficial_owner_id=customer_id,
        )
        self.people[customer_id] = replace(person, **values)
        return self.people[customer_id]

    def change(self, person: Principal, **values: Any) -> None:
        self.people[person.customer_id] = replace(self.people[person.customer_id], **values)

    def _load(self, ids: Collection[int]) -> list[Principal]:
        if self.down:
            raise DatabaseUnavailable("orders")
        return [self.people[customer_id] for customer_id in ids if customer_id in self.people]


def _router() -> Any:
    router = service_router()

    @router.post("/api/orders", status_code=201, openapi_extra=idempotency_key(unless="client_order_id"))
    async def place_order(body: OrderCreate, caller: Caller, wait: WaitSeconds) -> Seen:
        if body.customer_id is not None:
            await caller.require_customer_async(body.customer_id)
        return Seen(seen={"size": str(body.size), "caller": caller.customer_id, "wait": wait})

    @router.get("/api/orders")
    def list_orders(
        caller: Caller,
        paging: Paging,
        asset_name: Annotated[AssetName | None, Query()] = None,
        created_from: Annotated[Timestamp | None, Query()] = None,
    ) -> Seen:
        if asset_name == "BUG":
            raise RuntimeError("secret detail /etc/passwd SELECT 1")
        return Seen(seen={"limit": paging.limit})

    @router.get("/api/assets/{customer_id}/{asset_name}")
    def get_asset(customer_id: CustomerIdText, asset_name: str, caller: Caller) -> Seen:
        return Seen(seen={"customer_id": customer_id})

    @router.post("/api/matching/run", status_code=202)
    def run_matching(caller: Caller) -> Seen:
        return Seen(seen={})

    return router


class _Resources:
    def __init__(self, world: World) -> None:
        self.world = world
        self.principals = world.directory

    def ready(self) -> str | None:
        self.world.checks += 1
        self.world.hanging.wait(20)
        return "the store is down" if self.world.down else None

    def close(self) -> None: ...


class Served:
    """The service, its base URL and a client."""

    def __init__(self, world: World, url: str, key: Any, valkey: Any) -> None:
        self.world, self.url, self.valkey = world, url, valkey
        self._key = key
        self.client = httpx2.Client(base_url=url)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def token(self, person: Principal, session_id: str = "s") -> str:
        return tokens.issue(self._key, customer_id=person.customer_id, session_id=session_id)

    def call(self, method: str, path: str, person: Principal | None = None, **options: Any) -> Any:
        headers = dict(options.pop("headers", {}))
        if person is not None:
            headers["Authorization"] = f"Bearer {self.token(person)}"
        return self.client.request(method, path, headers=headers, **options)

    def raw(self, data: bytes) -> bytes:
        """What comes back for these very bytes, until the server closes or is silent for a second."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(data)
            answer = b""
            try:
                while chunk := connection.recv(65536):
                    answer += chunk
            except TimeoutError:
                pass
            return answer


def serve(world: World, settings: EdgeSettings) -> Iterator[str]:
    app = create_app([ServiceApi("order_service", _router(), lambda _: _Resources(world))], settings)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        log_level="error",
        proxy_headers=False,
        http="shared.http.protocol:StrictProtocol",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="session")
def key_directory(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("edge-keys")
    keys.ensure(directory)
    seal.ensure(directory)
    return directory


@pytest.fixture(scope="session")
def _served(servers: Any, key_directory: Any) -> Iterator[Served]:
    url = servers.env["BROKAGE_REDIS_URL"]
    settings = EdgeSettings(redis_url=url, key_dir=str(key_directory), jwks_url=None, trusted_proxies="")
    world = World()
    for base in serve(world, settings):
        yield Served(world, base, keys.load_signing_key(key_directory), redis.Redis.from_url(url))


@pytest.fixture
def served(_served: Served) -> Served:
    """With empty buckets."""
    _served.valkey.flushdb()
    return _served


@pytest.fixture(scope="session")
def without_valkey(key_directory: Any) -> Iterator[Served]:
    """The same, with nothing where Valkey should be."""
    settings = EdgeSettings(redis_url="redis://127.0.0.1:1/0", key_dir=str(key_directory), jwks_url=None)
    world = World()
    for base in serve(world, settings):
        yield Served(world, base, keys.load_signing_key(key_directory), None)
