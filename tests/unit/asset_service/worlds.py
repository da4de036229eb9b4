"""Commands and books for tests, and a world that keeps what a batch has written, as the database does."""

import copy
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from asset_service.book import Asset, Book, Instrument, Reservation, Settlement
from asset_service.fold import Said, fold
from asset_service.ledger import Posting
from asset_service.states import InstrumentStatus
from shared.contracts.assets import ReleaseReservation, ReserveAsset
from shared.contracts.message import Message
from shared.contracts.orders import OrderSide
from shared.contracts.trades import SettleTrade
from shared.ids import ROOT_ORGANIZATION_ID, new_id

TRY = Instrument("TRY", None, 8, 0, 8, InstrumentStatus.TRADING)
AAPL = Instrument("AAPL", "TRY", 6, 2, 8, InstrumentStatus.TRADING)
HALTED = Instrument("HLT", "TRY", 6, 2, 8, InstrumentStatus.HALTED)


def amount(value: str | int | Decimal) -> Decimal:
    return Decimal(value)


def message(payload: Any, aggregate_id: str, customer_id: int | None = None) -> Message[Any]:
    return Message(
        event_id=new_id(),
        type=type(payload).__name__,
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        aggregate_type="order",
        aggregate_id=aggregate_id,
        customer_id=customer_id,
        organization_id=ROOT_ORGANIZATION_ID,
        correlation_id=new_id(),
        payload=payload,
    )


def reserve(
    order_id: str,
    customer_id: int,
    side: str = "BUY",
    size: str | Decimal = "2",
    price: str | Decimal = "100",
    *,
    asset_name: str = "AAPL",
    fee_rate: str | Decimal = "0",
    fee_minimum: str | Decimal = "0",
) -> Message[Any]:
    command = ReserveAsset(
        asset_name=asset_name,
        quote_asset="TRY",
        order_side=OrderSide(side),
        size=Decimal(size),
        price=Decimal(price),
        fee_rate=Decimal(fee_rate),
        fee_minimum=Decimal(fee_minimum),
    )
    return message(command, order_id, customer_id)


def release(order_id: str, customer_id: int, reason: str = "CANCELED") -> Message[Any]:
    return message(ReleaseReservation(reason=reason), order_id, customer_id)


def settle(
    trade_id: str,
    buy: tuple[str, int] | None,
    sell: tuple[str, int] | None,
    size: str | Decimal = "2",
    price: str | Decimal = "100",
    *,
    asset_name: str = "AAPL",
) -> Message[Any]:
    command = SettleTrade(
        asset_name=asset_name,
        quote_asset="TRY",
        size=Decimal(size),
        price=Decimal(price),
        buy_order_id=buy[0] if buy else None,
        buyer_id=buy[1] if buy else None,
        sell_order_id=sell[0] if sell else None,
        seller_id=sell[1] if sell else None,
    )
    return message(command, trade_id)


class World:
    """Balances, reservations, answers to trades and the ledger between batches."""

    def __init__(self, balances: dict[tuple[int, str], str] | None = None, inactive: Sequence[int] = ()) -> None:
        self.instruments = {each.asset_name: each for each in (TRY, AAPL, HALTED)}
        self.inactive = set(inactive)
        self.assets: dict[tuple[int, str], Asset] = {}
        self.reservations: dict[str, Reservation] = {}
        self.settlements: dict[str, Settlement] = {}
        self.postings: list[Posting] = []
        self.answers: list[Said] = []
        for (customer_id, name), size in (balances or {}).items():
            asset = Asset(customer_id, name, ROOT_ORGANIZATION_ID, Decimal(size), Decimal(size), version=1)
            self.assets[(customer_id, name)] = asset
        self.deposited = {key: asset.size for key, asset in self.assets.items()}

    def run(self, *messages: Message[Any]) -> list[Any]:
        """One batch; its events."""
        book = Book(
            assets=copy.deepcopy(self.assets),
            reservations=copy.deepcopy(self.reservations),
            instruments=dict(self.instruments),
            settlements=dict(self.settlements),
            inactive=set(self.inactive),
        )
        said = fold(book, messages)
        for key, asset in book.changed_assets.items():
            asset.version += 1
            self.assets[key] = asset
        for order_id, reservation in book.changed_reservations.items():
            reservation.version += 1
            self.reservations[order_id] = reservation
        self.settlements.update(book.new_settlements)
        self.postings += book.postings
        self.answers += said
        return [each.payload for each in said]

    def balance(self, customer_id: int, name: str) -> tuple[Decimal, Decimal]:
        asset = self.assets[(customer_id, name)]
        return asset.size, asset.usable_size

    def ledger_sum(self, account_id: str) -> Decimal:
        return sum(
            (leg.amount for posting in self.postings for leg in posting.legs if leg.account_id == account_id),
            Decimal(0),
        )
