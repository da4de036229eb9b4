"""The services' own use cases and handlers on real databases, in this process and without a broker."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from asset_service.errors import InsufficientFunds
from asset_service.service import transfers
from asset_service.service.instruments import put_instrument
from customer_service.service.customers import Registration, ensure_customer, ensure_tier
from order_service.instruments import load_instruments
from order_service.schemas import OrderCreate
from order_service.service import acceptance
from order_service.service.canceling import cancel_order
from order_service.service.placing import Stored, place_orders
from order_service.states import OrderType, TimeInForce
from processor import repository
from processor.service import matching
from processor.service.expiry import expire_orders
from processor.settings import Settings
from shared import money
from shared.auth.caller import CallerContext
from shared.auth.permissions import Scope
from shared.auth.principals import postgres_directory
from shared.contracts.orders import OrderSide
from shared.db import Database, UnitOfWork
from shared.ids import new_id
from shared.testing.pump import SOURCES, Pump
from tests.integration.properties.model import Terms

SIZE_SCALE, PRICE_SCALE, CASH_SCALE = 6, 2, 8


class World:
    """Customers are known by the numbers of their terms; a number's id is in `ids`."""

    def __init__(self, environment: Mapping[str, str], terms: Mapping[int, Terms]) -> None:
        self._databases = {
            service: Database(environment[variable], name="properties", pool_size=2)
            for service, variable in SOURCES.items()
        }
        self.customers = self._databases["customer_service"]
        self.orders = self._databases["order_service"]
        self.assets = self._databases["asset_service"]
        self.processor = self._databases["processor"]
        self._pump = Pump(environment, tuple(SOURCES))
        self._settings = Settings(processor_database_url=environment[SOURCES["processor"]])
        self._directory = postgres_directory(self.orders)
        self.ids = {number: self._register(number, each) for number, each in terms.items()}
        self.drain()

    def close(self) -> None:
        self._pump.close()
        for database in self._databases.values():
            database.close()

    def drain(self) -> None:
        """Move every message until nobody has anything to say."""
        self._pump.drain()

    def _register(self, number: int, terms: Terms) -> int:
        tier = {"tier_code": f"TIER{number}", "tier_name": "", "priority": 1, "rate_limit": 1}
        ensure_tier(self.customers, **tier, fee_rate=terms.rate, fee_minimum=terms.minimum)
        return ensure_customer(self.customers, Registration(f"customer{number}", "none", tier=f"TIER{number}"))

    def define(self, cash: str, *shares: str) -> None:
        self.assets.run(lambda uow: put_instrument(uow, asset_name=cash, quote_asset=None, size_scale=CASH_SCALE))
        for share in shares:
            self._define_share(cash, share)

    def _define_share(self, cash: str, share: str) -> None:
        self.assets.run(
            lambda uow: put_instrument(
                uow, asset_name=share, quote_asset=cash, size_scale=SIZE_SCALE, price_scale=PRICE_SCALE
            )
        )

    def place(self, number: int, share: str, side: str, size: Decimal, price: Decimal) -> str:
        """The new order's id."""
        body = OrderCreate(
            client_order_id=new_id(),
            asset_name=share,
            order_side=OrderSide(side),
            order_type=OrderType.LIMIT,
            time_in_force=TimeInForce.GTC,
            size=money.text(size),
            price=money.text(price),
        )
        customer = self._directory.get(self.ids[number])
        assert customer is not None
        caller = CallerContext(customer, Scope.OWN, self._directory, new_id())
        instrument = acceptance.refuse_impossible(body, load_instruments(self.orders)[share])
        claim = acceptance.claim_of(body, customer.customer_id, customer.customer_id, None)
        order = acceptance.new_order(body, instrument, customer, caller, claim)
        (outcome,) = self.orders.run(lambda uow: place_orders(uow, [order]))
        assert isinstance(outcome, Stored), outcome
        order_id: str = outcome.row["id"]
        return order_id

    def cancel(self, order_id: str) -> None:
        """Raises OrderAlreadyFinal."""
        self.orders.run(lambda uow: cancel_order(uow, order_id))

    def expire(self, order_id: str) -> bool:
        """End the time of an order that is in the queue; whether the sweep took it off the book."""

        def end(uow: UnitOfWork) -> None:
            uow.connection.execute("UPDATE matching_queue SET expires_at = brokage_now() WHERE id = %s", (order_id,))

        self.processor.run(end)
        return bool(expire_orders(self.processor, self._settings))

    def deposit(self, number: int, asset_name: str, amount: Decimal) -> None:
        terms: dict[str, Any] = {"customer_id": self.ids[number], "asset_name": asset_name, "amount": amount}
        self.assets.run(lambda uow: transfers.deposit(uow, **terms, reference=new_id()))

    def withdraw(self, number: int, asset_name: str, amount: Decimal) -> bool:
        """Whether he was given it."""
        terms: dict[str, Any] = {"customer_id": self.ids[number], "asset_name": asset_name, "amount": amount}
        try:
            self.assets.run(lambda uow: transfers.withdraw(uow, **terms, reference=new_id()))
        except InsufficientFunds:
            return False
        return True

    def match(self, order_id: str, *, price: Decimal | None, size: Decimal | None) -> list[dict[str, Any]]:
        """The trades. Raises what the use case raises."""
        return self._trades(
            self.processor.run(
                lambda uow: matching.match_with_house(
                    uow, order_id, price=price, size=size, limit_only=False, settings=self._settings
                )
            )
        )

    def cross(self, buy_id: str, sell_id: str, *, price: Decimal | None, size: Decimal | None) -> list[dict[str, Any]]:
        """The trades. Raises what the use case raises."""
        return self._trades(
            self.processor.run(
                lambda uow: matching.cross(uow, buy_id, sell_id, price=price, size=size, settings=self._settings)
            )
        )

    def run(self, share: str) -> list[dict[str, Any]]:
        trade_ids, more = self.processor.run(lambda uow: matching.run(uow, share, settings=self._settings))
        assert not more
        return self._trades(trade_ids)

    def _trades(self, trade_ids: list[str]) -> list[dict[str, Any]]:
        with self.processor.read() as connection:
            return repository.find_trades(connection, trade_ids)
