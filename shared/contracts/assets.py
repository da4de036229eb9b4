"""Events of asset_service about balances, reservations and instruments, and the commands it takes from the processor."""

from datetime import datetime
from decimal import Decimal

from shared.contracts.message import Command, Event, contract
from shared.contracts.orders import ORDER, OrderSide

ASSET = "asset"
TRANSFER = "transfer"
INSTRUMENT = "instrument"


@contract(ORDER, ("asset_service",), by_customer=True)
class ReserveAsset(Command, frozen=True, kw_only=True):
    """Block what an order may need: a BUY its notional and the notional's fee in `quote_asset`, a SELL its size in `asset_name`.

    Answered by AssetReserved or AssetReservationFailed; a repeat is answered as the first time. `expires_at`: when the order ends
    by itself, for the record; a release is the processor's to ask for.
    """

    asset_name: str
    quote_asset: str
    order_side: OrderSide
    size: Decimal
    price: Decimal
    fee_rate: Decimal
    fee_minimum: Decimal
    expires_at: datetime | None = None


@contract(ORDER, ("asset_service",), by_customer=True)
class ReleaseReservation(Command, frozen=True, kw_only=True):
    """Give back what is left of an order's reservation. Without one, leave a tombstone that refuses a late ReserveAsset.

    Always answered by AssetReleased.
    """

    reason: str


@contract(ORDER, ("processor", "auditor"))
class AssetReserved(Event, frozen=True, kw_only=True):
    """`amount` of `asset_name` (cash for a BUY) left the customer's usable size."""

    asset_name: str
    amount: Decimal


@contract(ORDER, ("processor", "auditor"))
class AssetReservationFailed(Event, frozen=True, kw_only=True):
    asset_name: str
    amount: Decimal
    reason: str


@contract(ORDER, ("processor", "auditor"))
class AssetReleased(Event, frozen=True, kw_only=True):
    """`amount` went back to the usable size; zero when nothing was reserved."""

    asset_name: str
    amount: Decimal
    reason: str


@contract(TRANSFER, ("notifier", "auditor"))
class FundsDeposited(Event, frozen=True, kw_only=True):
    asset_name: str
    amount: Decimal
    reference: str


@contract(TRANSFER, ("notifier", "auditor"))
class FundsWithdrawn(Event, frozen=True, kw_only=True):
    asset_name: str
    amount: Decimal
    reference: str


@contract(ASSET, ("notifier", "auditor"))
class LowBalance(Event, frozen=True, kw_only=True):
    """`usable_size` fell below a tenth of `size`; said once per crossing."""

    asset_name: str
    size: Decimal
    usable_size: Decimal


@contract(INSTRUMENT, ("order_service", "processor", "auditor"))
class InstrumentChanged(Event, frozen=True, kw_only=True):
    """An instrument's whole definition. Cash has no `quote_asset`. `size_scale + price_scale <=` the quote asset's scale."""

    asset_name: str
    quote_asset: str | None
    size_scale: int
    price_scale: int
    quote_scale: int
    status: str
