"""The settlement of trades, between the processor and asset_service. The aggregate is the trade."""

from decimal import Decimal

from shared.contracts.message import Command, Event, contract

TRADE = "trade"


class TradeTerms(Command, frozen=True, kw_only=True):
    """A side without an order is HOUSE. `price` in `quote_asset` per unit of `asset_name`."""

    asset_name: str
    quote_asset: str
    size: Decimal
    price: Decimal
    buy_order_id: str | None = None
    sell_order_id: str | None = None
    buyer_id: int | None = None
    seller_id: int | None = None


@contract(TRADE, ("asset_service",))
class SettleTrade(TradeTerms, frozen=True, kw_only=True):
    """Move all legs of a trade in one transaction. Answered by TradeSettled or TradeSettlementFailed, and alike when repeated."""


class TradeEvent(Event, frozen=True, kw_only=True):
    asset_name: str
    quote_asset: str
    size: Decimal
    price: Decimal
    buy_order_id: str | None = None
    sell_order_id: str | None = None
    buyer_id: int | None = None
    seller_id: int | None = None


@contract(TRADE, ("processor", "auditor"))
class TradeSettled(TradeEvent, frozen=True, kw_only=True):
    """`notional` = size * price; what each side paid as fee for this fill, in `quote_asset`."""

    notional: Decimal
    buyer_fee: Decimal
    seller_fee: Decimal


@contract(TRADE, ("processor", "auditor"))
class TradeSettlementFailed(TradeEvent, frozen=True, kw_only=True):
    """Nothing moved."""

    reason: str
