"""What a batch of commands touches, in memory: loaded once, folded in order, written once. Pure; no I/O.

Amounts are exact Decimals. The fold runs in `money.EXACT` (see `fold`), so an operation that would lose a digit fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from asset_service.ledger import Posting
from asset_service.states import InstrumentStatus, ReservationStatus
from shared import money
from shared.contracts.assets import LowBalance
from shared.contracts.message import Event
from shared.contracts.orders import OrderSide

AssetKey = tuple[int, str]

BALANCE_LIMIT = Decimal(10) ** 20
"""A balance must stay below this, so that it fits `NUMERIC(38,18)`."""


@dataclass(slots=True)
class Asset:
    """A customer's asset. `version` 0 means that it has no row yet."""

    customer_id: int
    asset_name: str
    organization_id: str
    size: Decimal = money.ZERO
    usable_size: Decimal = money.ZERO
    low_balance: bool = False
    version: int = 0
    id: int | None = None

    @property
    def key(self) -> AssetKey:
        return (self.customer_id, self.asset_name)

    def is_low(self) -> bool:
        return self.usable_size * 10 < self.size

    def next_version(self) -> int:
        return self.version + 1


@dataclass(slots=True)
class Reservation:
    """A block for an order, or the record that there is none (`refusal`). `version` 0 means that it has no row yet.

    `quote_scale`: decimals of the quote asset when the order was accepted; fees are rounded at it to the end.
    `release_amount`: what the release gave back, None while it was not released.
    `expires_at`: when its order ends by itself; then the processor releases it, and nobody else.
    `asset_id`: of the row of what it blocks; set when it is written.
    """

    id: str
    order_id: str
    customer_id: int
    organization_id: str
    status: ReservationStatus
    asset_name: str | None = None
    amount: Decimal = money.ZERO
    consumed: Decimal = money.ZERO
    released: Decimal = money.ZERO
    refusal: str | None = None
    release_reason: str | None = None
    release_amount: Decimal | None = None
    order_side: OrderSide | None = None
    traded_asset: str | None = None
    quote_asset: str | None = None
    quote_scale: int = 0
    limit_price: Decimal = money.ZERO
    open_size: Decimal = money.ZERO
    filled_notional: Decimal = money.ZERO
    fee_rate: Decimal = money.ZERO
    fee_minimum: Decimal = money.ZERO
    fee_charged: Decimal = money.ZERO
    expires_at: datetime | None = None
    version: int = 0
    asset_id: int | None = None

    @property
    def remaining(self) -> Decimal:
        return self.amount - self.consumed - self.released

    def fee_of(self, cumulative_notional: Decimal) -> Decimal:
        return money.fee(cumulative_notional, rate=self.fee_rate, minimum=self.fee_minimum, scale=self.quote_scale)


@dataclass(frozen=True, slots=True)
class Instrument:
    """What may be traded, or (without `quote_asset`) cash. `quote_scale` is its own scale for cash."""

    asset_name: str
    quote_asset: str | None
    size_scale: int
    price_scale: int
    quote_scale: int
    status: InstrumentStatus


class Settlement(NamedTuple):
    """The answer to a SettleTrade. With a `refusal`, nothing moved and the amounts are zero."""

    refusal: str | None = None
    notional: Decimal = money.ZERO
    buyer_fee: Decimal = money.ZERO
    seller_fee: Decimal = money.ZERO


class Answer(NamedTuple):
    """What to say to a command. A repeated one is for the processor only: the audit trail has it already."""

    payload: Event
    repeated: bool = False


@dataclass(slots=True)
class Book:
    """Everything a batch touches. What is not in it does not exist.

    `inactive`: customers known to be deactivated. The `changed_*` and `postings` are what there is to write.
    """

    assets: dict[AssetKey, Asset] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    instruments: dict[str, Instrument] = field(default_factory=dict)
    settlements: dict[str, Settlement] = field(default_factory=dict)
    inactive: set[int] = field(default_factory=set)
    changed_assets: dict[AssetKey, Asset] = field(default_factory=dict)
    changed_reservations: dict[str, Reservation] = field(default_factory=dict)
    new_settlements: dict[str, Settlement] = field(default_factory=dict)
    postings: list[Posting] = field(default_factory=list)
    _moved: dict[AssetKey, Asset] = field(default_factory=dict)

    def usable(self, customer_id: int, asset_name: str) -> Decimal:
        asset = self.assets.get((customer_id, asset_name))
        return asset.usable_size if asset else money.ZERO

    def size(self, customer_id: int, asset_name: str) -> Decimal:
        asset = self.assets.get((customer_id, asset_name))
        return asset.size if asset else money.ZERO

    def move(
        self,
        customer_id: int,
        asset_name: str,
        organization_id: str,
        *,
        size: Decimal = money.ZERO,
        usable: Decimal = money.ZERO,
    ) -> Asset:
        """Add to what the customer has and may use; the asset comes into being when he had none."""
        key = (customer_id, asset_name)
        asset = self.assets.get(key)
        if asset is None:
            asset = self.assets[key] = Asset(customer_id, asset_name, organization_id)
        asset.size += size
        asset.usable_size += usable
        assert money.ZERO <= asset.usable_size <= asset.size, key
        self.changed_assets[key] = self._moved[key] = asset
        return asset

    def keep(self, reservation: Reservation) -> None:
        self.reservations[reservation.order_id] = reservation
        self.changed_reservations[reservation.order_id] = reservation

    def low_balances(self) -> Sequence[tuple[Asset, LowBalance]]:
        """Assets that fell below a tenth since the last call; their flags are set, and of those that rose again
        cleared."""
        fallen = []
        for asset in self._moved.values():
            low = asset.is_low()
            if low and not asset.low_balance:
                fallen.append((asset, _low_balance(asset)))
            asset.low_balance = low
        self._moved.clear()
        return fallen


def plain(amount: Decimal) -> Decimal:
    """Without trailing zeros or exponent, as it shall be read in messages."""
    return Decimal(money.text(amount))


def _low_balance(asset: Asset) -> LowBalance:
    said: dict[str, Any] = {"low_balance": True, "usable_size": money.text(asset.usable_size)}
    return LowBalance(
        before={"low_balance": False},
        after=said,
        asset_name=asset.asset_name,
        size=plain(asset.size),
        usable_size=plain(asset.usable_size),
    )
