"""Settling a trade, pure: all legs or none, and the buyer's surplus back in the same step."""

from decimal import Decimal
from typing import NamedTuple

from asset_service import ledger
from asset_service.book import BALANCE_LIMIT, Answer, Book, Reservation, Settlement, plain
from asset_service.ledger import Leg, customer_account, system_account
from asset_service.states import AccountClass, ReservationStatus
from shared import money
from shared.contracts.orders import OrderSide
from shared.contracts.trades import TRADE, SettleTrade, TradeSettled, TradeSettlementFailed

RESERVATION_MISSING = "RESERVATION_MISSING"
RESERVATION_TOO_SMALL = "RESERVATION_TOO_SMALL"
PRICE_BEYOND_LIMIT = "PRICE_BEYOND_LIMIT"
SELF_TRADE = "SELF_TRADE"
NO_ORDER = "NO_ORDER"
SCALE_EXCEEDED = "SCALE_EXCEEDED"
BALANCE_TOO_LARGE = "BALANCE_TOO_LARGE"
_DECIMALS_MAX = 18


class _Refused(Exception):
    """Why a trade cannot be settled; raised before anything is changed."""


class Fill(NamedTuple):
    """One side's part of a trade. `consumed` of its reservation is spent, `surplus` of it goes back to the customer."""

    reservation: Reservation
    notional: Decimal
    size: Decimal
    fee: Decimal
    consumed: Decimal
    surplus: Decimal


def settle(book: Book, trade_id: str, organization_id: str, command: SettleTrade) -> Answer:
    """Move all legs of a trade, or record why nothing moves. A repeat changes nothing and gets the recorded answer."""
    known = book.settlements.get(trade_id)
    if known is not None:
        return Answer(_said(command, known), repeated=True)
    try:
        settlement = _settle(book, trade_id, organization_id, command)
    except _Refused as refused:
        settlement = Settlement(refusal=str(refused))
    book.settlements[trade_id] = book.new_settlements[trade_id] = settlement
    return Answer(_said(command, settlement))


def needed(reservation: Reservation, open_size: Decimal, filled_notional: Decimal) -> Decimal:
    """What a BUY still needs when `open_size` is open and `filled_notional` filled: the notional at its limit, and the
    fee that would then be due on top of what the fills have been charged."""
    open_notional = money.multiply(open_size, reservation.limit_price)
    return open_notional + reservation.fee_of(filled_notional + open_notional) - reservation.fee_of(filled_notional)


def buyer_fill(reservation: Reservation, size: Decimal, price: Decimal) -> Fill:
    """A buyer's fill, without changing anything. The fee is that of all his fills less what was charged before."""
    notional = money.multiply(size, price)
    filled = reservation.filled_notional + notional
    fee = reservation.fee_of(filled) - reservation.fee_charged
    still_needed = needed(reservation, reservation.open_size - size, filled)
    consumed = notional + fee
    return Fill(reservation, notional, size, fee, consumed, reservation.remaining - consumed - still_needed)


def seller_fill(reservation: Reservation, size: Decimal, price: Decimal) -> Fill:
    """A seller's fill, without changing anything. The fee comes out of the proceeds and never exceeds them."""
    notional = money.multiply(size, price)
    due = reservation.fee_of(reservation.filled_notional + notional) - reservation.fee_charged
    still_needed = reservation.open_size - size
    return Fill(reservation, notional, size, min(due, notional), size, reservation.remaining - size - still_needed)


def _settle(book: Book, trade_id: str, organization_id: str, command: SettleTrade) -> Settlement:
    notional = money.multiply(command.size, command.price)
    if not (money.fits_scale(command.size, _DECIMALS_MAX) and money.fits_scale(notional, _DECIMALS_MAX)):
        raise _Refused(SCALE_EXCEEDED)
    if command.buy_order_id is None and command.sell_order_id is None:
        raise _Refused(NO_ORDER)
    if command.buyer_id is not None and command.buyer_id == command.seller_id:
        raise _Refused(SELF_TRADE)
    buy = sell = None
    if command.buy_order_id is not None:
        buy = _side(book, command, OrderSide.BUY, command.buy_order_id, command.buyer_id)
    if command.sell_order_id is not None:
        sell = _side(book, command, OrderSide.SELL, command.sell_order_id, command.seller_id)
    buyer_fee = buy.fee if buy else money.ZERO
    seller_fee = sell.fee if sell else money.ZERO
    _check_balances(book, command, buy, sell, notional - seller_fee)
    legs = _legs(command, notional, buyer_fee, seller_fee)
    book.postings.append(ledger.post(f"trade:{trade_id}", "TRADE", TRADE, trade_id, legs))
    if buy is not None:
        owner = buy.reservation.customer_id
        _spend(book, buy)
        book.move(owner, command.quote_asset, organization_id, size=-buy.consumed, usable=buy.surplus)
        book.move(owner, command.asset_name, organization_id, size=command.size, usable=command.size)
    if sell is not None:
        owner, proceeds = sell.reservation.customer_id, notional - seller_fee
        _spend(book, sell)
        book.move(owner, command.asset_name, organization_id, size=-sell.consumed, usable=sell.surplus)
        book.move(owner, command.quote_asset, organization_id, size=proceeds, usable=proceeds)
    return Settlement(None, notional, buyer_fee, seller_fee)


def _side(book: Book, command: SettleTrade, side: OrderSide, order_id: str, customer_id: int | None) -> Fill:
    reservation = book.reservations.get(order_id)
    if (
        reservation is None
        or reservation.status is not ReservationStatus.ACTIVE
        or reservation.order_side != side
        or reservation.customer_id != customer_id
        or (reservation.traded_asset, reservation.quote_asset) != (command.asset_name, command.quote_asset)
    ):
        raise _Refused(RESERVATION_MISSING)
    if reservation.open_size < command.size:
        raise _Refused(RESERVATION_TOO_SMALL)
    if side is OrderSide.BUY:
        beyond, fill_of = command.price > reservation.limit_price, buyer_fill
    else:
        beyond, fill_of = command.price < reservation.limit_price, seller_fill
    if beyond:
        raise _Refused(PRICE_BEYOND_LIMIT)
    fill = fill_of(reservation, command.size, command.price)
    if not money.fits_scale(fill.notional, reservation.quote_scale):
        raise _Refused(SCALE_EXCEEDED)
    if fill.surplus < money.ZERO:
        raise _Refused(RESERVATION_TOO_SMALL)
    return fill


def _check_balances(book: Book, command: SettleTrade, buy: Fill | None, sell: Fill | None, proceeds: Decimal) -> None:
    if buy is not None:
        size = book.size(buy.reservation.customer_id, command.asset_name) + command.size
        if size >= BALANCE_LIMIT:
            raise _Refused(BALANCE_TOO_LARGE)
    if sell is not None:
        size = book.size(sell.reservation.customer_id, command.quote_asset) + proceeds
        if size >= BALANCE_LIMIT:
            raise _Refused(BALANCE_TOO_LARGE)


def _spend(book: Book, fill: Fill) -> None:
    reservation = fill.reservation
    reservation.consumed += fill.consumed
    reservation.released += fill.surplus
    reservation.open_size -= fill.size
    reservation.filled_notional += fill.notional
    reservation.fee_charged += fill.fee
    if not reservation.open_size:
        reservation.status = ReservationStatus.SETTLED
    book.keep(reservation)


def _legs(command: SettleTrade, notional: Decimal, buyer_fee: Decimal, seller_fee: Decimal) -> list[Leg]:
    asset, quote = command.asset_name, command.quote_asset
    buyer_pays, seller_gets = notional + buyer_fee, notional - seller_fee
    return [
        Leg(_account(command.buy_order_id, command.buyer_id, quote), quote, -buyer_pays),
        Leg(_account(command.sell_order_id, command.seller_id, quote), quote, seller_gets),
        Leg(system_account(AccountClass.FEE, quote), quote, buyer_fee + seller_fee),
        Leg(_account(command.buy_order_id, command.buyer_id, asset), asset, command.size),
        Leg(_account(command.sell_order_id, command.seller_id, asset), asset, -command.size),
    ]


def _account(order_id: str | None, customer_id: int | None, asset_name: str) -> str:
    if order_id is None or customer_id is None:
        return system_account(AccountClass.HOUSE, asset_name)
    return customer_account(customer_id, asset_name)


def _said(command: SettleTrade, settlement: Settlement) -> TradeSettled | TradeSettlementFailed:
    terms = {
        "asset_name": command.asset_name,
        "quote_asset": command.quote_asset,
        "size": command.size,
        "price": command.price,
        "buy_order_id": command.buy_order_id,
        "sell_order_id": command.sell_order_id,
        "buyer_id": command.buyer_id,
        "seller_id": command.seller_id,
    }
    if settlement.refusal is not None:
        return TradeSettlementFailed(**terms, reason=settlement.refusal)  # type: ignore[arg-type]
    return TradeSettled(
        before={"status": "PENDING"},
        after={"status": "SETTLED"},
        **terms,  # type: ignore[arg-type]
        notional=plain(settlement.notional),
        buyer_fee=plain(settlement.buyer_fee),
        seller_fee=plain(settlement.seller_fee),
    )
