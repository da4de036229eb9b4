"""Who trades in a measurement: customers in a tier of their own, rich enough, signed in before anything is measured."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from urllib.parse import urlencode

from argon2 import PasswordHasher

from asset_service.service.instruments import put_instrument
from asset_service.service.transfers import deposit
from customer_service.service.customers import Registration, ensure_tier, register_customer
from infra.bench.client import Connection, connect, request
from infra.bench.system import BenchSystem
from shared.db import Database, UnitOfWork

CUSTOMERS = 500
INSTRUMENTS = ("BNCHA", "BNCHB", "BNCHC", "BNCHD")
CASH = "TRY"
_TIER = "BENCH"
_PASSWORD = "as good as any other"
_RICH = Decimal(1_000_000_000)
_AT_ONCE = 50
_SIGN_IN_CONNECTIONS = 4
# Sign-ins of one address are limited (contract, Rate limits); every address signs in fewer.
_SIGN_INS_PER_ADDRESS = 100
_RENEWED_AFTER_SECONDS = 450.0


@dataclass(slots=True)
class Population:
    """Ids and access tokens, customer by customer; `stay_signed_in` renews the tokens, which live 15 minutes."""

    port: int
    admin_password: str
    ids: list[int]
    tokens: list[str] = field(default_factory=list)
    admin: str = ""
    signed_in_at: float = -math.inf

    async def stay_signed_in(self) -> None:
        """Before each stage: none takes as long as tokens are left then."""
        if time.monotonic() - self.signed_in_at > _RENEWED_AFTER_SECONDS:
            await self.sign_in()

    async def sign_in(self) -> None:
        names = [("admin", self.admin_password), *((_name(number), _PASSWORD) for number in range(len(self.ids)))]
        found: dict[str, str] = {}
        chunks = [names[start : start + _SIGN_INS_PER_ADDRESS] for start in range(0, len(names), _SIGN_INS_PER_ADDRESS)]
        for number, chunk in enumerate(chunks):
            found |= await _sign_in_from(f"127.0.0.{number + 2}", self.port, chunk)
        self.admin = found["admin"]
        self.tokens = [found[_name(number)] for number in range(len(self.ids))]
        self.signed_in_at = time.monotonic()


async def _sign_in_from(address: str, port: int, names: Sequence[tuple[str, str]]) -> dict[str, str]:
    tokens: dict[str, str] = {}
    waiting = list(names)

    async def work(connection: Connection) -> None:
        while waiting:
            name, password = waiting.pop()
            form = urlencode({"grant_type": "password", "username": name, "password": password}).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await connection.send(request("POST", "/api/auth/token", body=form, headers=headers))
            tokens[name] = answer.expect(200).json()["access_token"]

    connections = [await connect(port, address=address) for _ in range(_SIGN_IN_CONNECTIONS)]
    try:
        await asyncio.gather(*(work(connection) for connection in connections))
    finally:
        for connection in connections:
            connection.close()
    return tokens


def populate(system: BenchSystem, customers: int = CUSTOMERS) -> Population:
    """Instruments, customers and deposits, through the services' own use cases, many to a transaction."""
    environment = system.environment
    accounts = Database(environment["BROKAGE_CUSTOMERS_DATABASE_URL"], name="bench", pool_size=1)
    assets = Database(environment["BROKAGE_ASSETS_DATABASE_URL"], name="bench", pool_size=1)
    try:
        ids = _open_accounts(accounts, customers)
        assets.run(_list_instruments)
        for start in range(0, len(ids), _AT_ONCE):
            assets.run(lambda unit, some=ids[start : start + _AT_ONCE]: _pay_in(unit, some))  # type: ignore[misc]
    finally:
        accounts.close()
        assets.close()
    return Population(system.port, system.admin_password, ids)


def _open_accounts(database: Database, customers: int) -> list[int]:
    ensure_tier(database, tier_code=_TIER, tier_name="Bench", priority=1, rate_limit=10_000_000)
    # Cheap to verify: what a password costs is no part of what is measured.
    password_hash = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(_PASSWORD)

    def work(unit: UnitOfWork, numbers: range) -> list[int]:
        return [
            int(register_customer(unit, Registration(_name(number), password_hash, tier=_TIER), None).resource_id)
            for number in numbers
        ]

    ids: list[int] = []
    for start in range(0, customers, _AT_ONCE):
        some = range(start, min(start + _AT_ONCE, customers))
        ids += database.run(lambda unit, some=some: work(unit, some))  # type: ignore[misc]
    return ids


def _list_instruments(unit: UnitOfWork) -> None:
    put_instrument(unit, asset_name=CASH, quote_asset=None, size_scale=8)
    for name in INSTRUMENTS:
        put_instrument(unit, asset_name=name, quote_asset=CASH, size_scale=6, price_scale=2)


def _pay_in(unit: UnitOfWork, ids: Sequence[int]) -> None:
    for customer_id in ids:
        for name in (CASH, *INSTRUMENTS):
            deposit(unit, customer_id=customer_id, asset_name=name, amount=_RICH, reference=f"bench-{name}")


def _name(number: int) -> str:
    return f"bench{number}"
