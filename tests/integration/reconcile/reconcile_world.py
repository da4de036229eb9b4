"""A system of its own with some life behind it: every kind of order end, partial fills, a bust, fees. Nothing runs beside it,
so that each test can break one thing and see exactly that."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg

from asset_service.service.instruments import put_instrument
from asset_service.service.transfers import deposit, withdraw
from customer_service.service.customers import Registration, ensure_customer, ensure_tier
from infra.reconcile.check import Examined
from infra.reconcile.run import reconcile
from infra.reconcile.settings import Settings
from infra.reconcile.stores import Stores
from infra.servers import DATABASES, EmbeddedServers
from order_service.service.canceling import cancel_order
from order_service.service.placing import Claim, NewOrder, Stored, place_orders
from processor.service import matching
from processor.settings import Settings as ProcessorSettings
from shared.db import Context, Database, UnitOfWork
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.mongo import MongoDatabase
from shared.testing.pump import Pump

FEE_RATE, FEE_MINIMUM = Decimal("0.001"), Decimal("0.05")
IMPATIENT = Settings(grace_seconds=0.2, delivery_seconds=0.0, overdue_seconds=60.0)


@dataclass
class World:
    """The stores, and short ways to what happens in them."""

    servers: EmbeddedServers
    databases: dict[str, Database]
    pump: Pump
    processor_settings: ProcessorSettings

    @property
    def environment(self) -> Mapping[str, str]:
        return self.servers.environment

    def intrude(self, service: str) -> psycopg.Connection[Any]:
        """A superuser's connection to the database of a service."""
        assert self.servers.postgres is not None
        return self.servers.postgres.connect(DATABASES[service][0])

    def do(self, service: str, work: Callable[[UnitOfWork], Any]) -> Any:
        return self.databases[service].run(work)

    def customer(self, **balances: str) -> int:
        name = f"customer-{new_id()}"
        customer_id = ensure_customer(
            self.databases["customer_service"], Registration(username=name, password_hash="none", tier="FEES")
        )
        for asset_name, amount in balances.items():
            self.do(
                "asset_service",
                lambda uow, asset_name=asset_name, amount=amount: deposit(
                    uow, customer_id=customer_id, asset_name=asset_name, amount=Decimal(amount), reference=new_id()
                ),
            )
        self.pump.drain()
        return customer_id

    def withdraw(self, customer_id: int, asset_name: str, amount: str) -> None:
        terms = {"asset_name": asset_name, "amount": Decimal(amount), "reference": new_id()}
        self.do("asset_service", lambda uow: withdraw(uow, customer_id=customer_id, **terms))

    def order(self, customer_id: int, side: str, size: str, price: str, *, moved: bool = True) -> str:
        """A new order's id; with `moved` it has come to rest."""
        [order_id] = self.orders(customer_id, side, size, price, number=1, moved=moved)
        return order_id

    def orders(
        self, customer_id: int, side: str, size: str, price: str, *, number: int, moved: bool = True
    ) -> list[str]:
        """Ids of new orders that are alike and were accepted together."""
        new = [new_order(customer_id, side, size, price) for _ in range(number)]
        outcomes = self.do("order_service", lambda uow: place_orders(uow, new))
        assert all(isinstance(outcome, Stored) for outcome in outcomes)
        if moved:
            self.pump.drain()
        return [order.claim.order_id for order in new]

    def cross(self, buy_order_id: str, sell_order_id: str, size: str | None = None, *, moved: bool = True) -> str:
        terms = {"price": None, "size": Decimal(size) if size else None, "settings": self.processor_settings}
        [trade_id] = self.do("processor", lambda unit: matching.cross(unit, buy_order_id, sell_order_id, **terms))
        if moved:
            self.pump.drain()
        return str(trade_id)

    def match(self, order_id: str, size: str | None = None) -> str:
        terms = {"price": None, "size": Decimal(size) if size else None, "limit_only": False}
        [trade_id] = self.do(
            "processor",
            lambda unit: matching.match_with_house(unit, order_id, **terms, settings=self.processor_settings),
        )
        self.pump.drain()
        return str(trade_id)

    def cancel(self, order_id: str, *, moved: bool = True) -> None:
        self.do("order_service", lambda uow: cancel_order(uow, order_id))
        if moved:
            self.pump.drain()

    def sql(self, service: str, *statements: str) -> None:
        """As an intruder would: as superuser, without triggers."""
        with self.intrude(service) as connection, connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")
            for statement in statements:
                connection.execute(statement)

    def one(self, service: str, statement: str) -> Any:
        with psycopg.connect(self.environment[DATABASES[service][1]]) as connection:
            row = connection.execute(statement).fetchone()
        assert row is not None
        return row[0]

    @contextmanager
    def broken(self, service: str, break_it: list[str], mend_it: list[str]) -> Iterator[None]:
        self.sql(service, *break_it)
        try:
            yield
        finally:
            self.sql(service, *mend_it)

    @contextmanager
    def documents(self, store: str) -> Iterator[MongoDatabase]:
        database = MongoDatabase(self.environment["BROKAGE_MONGO_URL"], store)
        yield database
        database.close()

    def reconcile(self, settings: Settings = IMPATIENT) -> dict[int, Examined]:
        with Stores(self.environment, settings) as stores:
            return {check.number: examined for check, examined in reconcile(stores)}


def new_order(
    customer_id: int, side: str, size: str, price: str, *, client_order_id: str | None = None, asset_name: str = "AAPL"
) -> NewOrder:
    """What order_service makes of a request."""
    row = {
        "id": new_id(),
        "organization_id": ROOT_ORGANIZATION_ID,
        "client_order_id": client_order_id,
        "customer_id": customer_id,
        "beneficial_owner_id": customer_id,
        "placed_by": customer_id,
        "placed_by_role": "CUSTOMER",
        "asset_name": asset_name,
        "quote_asset": "TRY",
        "quote_scale": 8,
        "order_side": side,
        "order_type": "LIMIT",
        "time_in_force": "GTC",
        "size": Decimal(size),
        "price": Decimal(price),
        "tier": "FEES",
        "fee_rate": FEE_RATE,
        "fee_minimum": FEE_MINIMUM,
        "status": "PENDING_RESERVATION",
        "expires_at": None,
    }
    client_id = (customer_id, customer_id, client_order_id) if client_order_id else None
    return NewOrder(row, 1, Claim(row["id"], None, client_id, ""), Context())


def live(world: World) -> None:
    tier = {"tier_name": "With fees", "priority": 1, "rate_limit": 1000, "monthly_fee": 0}
    ensure_tier(
        world.databases["customer_service"], tier_code="FEES", fee_rate=FEE_RATE, fee_minimum=FEE_MINIMUM, **tier
    )
    world.do("asset_service", lambda uow: put_instrument(uow, asset_name="TRY", quote_asset=None, size_scale=8))
    shares = {"quote_asset": "TRY", "size_scale": 6, "price_scale": 2}
    world.do("asset_service", lambda uow: put_instrument(uow, asset_name="AAPL", **shares))
    buyer, seller = world.customer(TRY="100000", AAPL="5"), world.customer(TRY="50", AAPL="1000")
    world.withdraw(buyer, "TRY", "12.5")
    world.order(buyer, "BUY", "1000000", "10")  # more than he has: rejected
    full = world.order(buyer, "BUY", "10", "20.05")
    world.match(full)
    partly, other = world.order(buyer, "BUY", "10", "21"), world.order(seller, "SELL", "7", "19.5")
    world.cross(partly, other, "3")
    world.cross(partly, other)
    world.cancel(world.order(seller, "SELL", "3", "30"))
    half = world.order(seller, "SELL", "8", "18")
    world.match(half, "2.5")
    world.cancel(half)
    world.cancel(world.order(buyer, "BUY", "1", "10", moved=False))
    world.order(buyer, "BUY", "2", "11")
    _bust(world, buyer)


def _bust(world: World, customer_id: int) -> None:
    """A trade that asset_service refuses, because its instrument is another's in its books for a moment."""
    order_id = world.order(customer_id, "BUY", "4", "12")
    change = "UPDATE asset_reservations SET limit_price = {} WHERE holder_id = '" + order_id + "'"
    with world.broken("asset_service", [change.format(11)], [change.format(12)]):
        world.match(order_id, "1")
