"""Reserve and release, pure: decide on the book, change it, and say what happened."""

from decimal import Decimal

from asset_service.book import Answer, Book, Reservation, plain
from asset_service.states import InstrumentStatus, ReservationStatus
from shared import money
from shared.contracts.assets import (
    AssetReleased,
    AssetReservationFailed,
    AssetReserved,
    ReleaseReservation,
    ReserveAsset,
)
from shared.contracts.message import Event
from shared.contracts.orders import OrderSide, RejectionReason
from shared.ids import new_id

RELEASED_BEFORE = "RELEASED_BEFORE"
"""Refusal of a reserve that arrives after its release, which left a tombstone."""
SCALE_EXCEEDED = "SCALE_EXCEEDED"
"""Refusal of amounts finer than the quote asset can hold."""
EXPIRED = "EXPIRED"
"""The release reason that ends a reservation as EXPIRED."""
_DECIMALS_MAX = 18


def reserve(book: Book, order_id: str, customer_id: int, organization_id: str, command: ReserveAsset) -> Answer:
    """Block what the order may need, or record why not. A repeat changes nothing and gets the recorded answer."""
    known = book.reservations.get(order_id)
    instrument = book.instruments.get(command.asset_name)
    scale = instrument.quote_scale if instrument else _DECIMALS_MAX
    asset_name, amount = blocked_asset(command), required(command, scale)
    if known is not None:
        return Answer(_recorded_answer(known, asset_name, amount), repeated=True)
    refusal = _refusal(book, customer_id, command, asset_name, amount)
    reservation = Reservation(
        id=new_id(),
        order_id=order_id,
        customer_id=customer_id,
        organization_id=organization_id,
        status=ReservationStatus.ACTIVE if refusal is None else ReservationStatus.RELEASED,
        asset_name=asset_name,
        refusal=refusal,
    )
    book.keep(reservation)
    if refusal is not None:
        return Answer(_failed(asset_name, amount, refusal))
    _take_terms(reservation, command, amount, scale)
    before = book.usable(customer_id, asset_name)
    asset = book.move(customer_id, asset_name, organization_id, usable=-amount)
    return Answer(
        AssetReserved(
            before={"usable_size": money.text(before)},
            after={"usable_size": money.text(asset.usable_size)},
            asset_name=asset_name,
            amount=plain(amount),
        )
    )


def release(book: Book, order_id: str, customer_id: int, organization_id: str, command: ReleaseReservation) -> Answer:
    """Give back what is left. Without a reservation leave a tombstone. A repeat is answered with the first one's amount."""
    reservation = book.reservations.get(order_id)
    if reservation is None:
        book.keep(_tombstone(order_id, customer_id, organization_id, command.reason))
        return Answer(AssetReleased(asset_name="", amount=money.ZERO, reason=command.reason))
    asset_name = reservation.asset_name or ""
    if reservation.status is not ReservationStatus.ACTIVE:
        amount = reservation.release_amount or money.ZERO
        reason = reservation.release_reason or command.reason
        return Answer(AssetReleased(asset_name=asset_name, amount=plain(amount), reason=reason), repeated=True)
    amount = reservation.remaining
    reservation.released += amount
    reservation.release_amount = amount
    reservation.release_reason = command.reason
    reservation.status = ReservationStatus.EXPIRED if command.reason == EXPIRED else ReservationStatus.RELEASED
    book.keep(reservation)
    before = book.usable(reservation.customer_id, asset_name)
    asset = book.move(reservation.customer_id, asset_name, reservation.organization_id, usable=amount)
    return Answer(
        AssetReleased(
            before={"usable_size": money.text(before)},
            after={"usable_size": money.text(asset.usable_size)},
            asset_name=asset_name,
            amount=plain(amount),
            reason=command.reason,
        )
    )


def blocked_asset(command: ReserveAsset) -> str:
    """What an order blocks: a BUY its quote asset, a SELL what it sells."""
    return command.asset_name if command.order_side == OrderSide.SELL else command.quote_asset


def required(command: ReserveAsset, quote_scale: int) -> Decimal:
    """How much of it: a BUY its notional and the notional's fee, a SELL its size. Source: contract, Fees."""
    if command.order_side == OrderSide.SELL:
        return command.size
    notional = money.multiply(command.size, command.price)
    return notional + money.fee(notional, rate=command.fee_rate, minimum=command.fee_minimum, scale=quote_scale)


def _refusal(book: Book, customer_id: int, command: ReserveAsset, asset_name: str, amount: Decimal) -> str | None:
    instrument = book.instruments.get(command.asset_name)
    if instrument is None or instrument.quote_asset is None or instrument.quote_asset != command.quote_asset:
        return RejectionReason.INSTRUMENT_UNKNOWN
    if instrument.status is InstrumentStatus.HALTED:
        return RejectionReason.INSTRUMENT_HALTED
    if customer_id in book.inactive:
        return RejectionReason.CUSTOMER_INACTIVE
    if not money.fits_scale(amount, _DECIMALS_MAX) or not money.fits_scale(
        money.multiply(command.size, command.price), instrument.quote_scale
    ):
        return SCALE_EXCEEDED
    if book.usable(customer_id, asset_name) < amount:
        return RejectionReason.INSUFFICIENT_BALANCE
    return None


def _take_terms(reservation: Reservation, command: ReserveAsset, amount: Decimal, scale: int) -> None:
    reservation.amount = amount
    reservation.order_side = command.order_side
    reservation.traded_asset = command.asset_name
    reservation.quote_asset = command.quote_asset
    reservation.quote_scale = scale
    reservation.limit_price = command.price
    reservation.open_size = command.size
    reservation.fee_rate = command.fee_rate
    reservation.fee_minimum = command.fee_minimum
    reservation.expires_at = command.expires_at


def _tombstone(order_id: str, customer_id: int, organization_id: str, reason: str) -> Reservation:
    return Reservation(
        id=new_id(),
        order_id=order_id,
        customer_id=customer_id,
        organization_id=organization_id,
        status=ReservationStatus.RELEASED,
        refusal=RELEASED_BEFORE,
        release_reason=reason,
        release_amount=money.ZERO,
    )


def _recorded_answer(known: Reservation, asset_name: str, amount: Decimal) -> Event:
    if known.refusal is not None:
        return _failed(asset_name, amount, known.refusal)
    return AssetReserved(asset_name=known.asset_name or asset_name, amount=plain(known.amount))


def _failed(asset_name: str, amount: Decimal, reason: str) -> AssetReservationFailed:
    return AssetReservationFailed(asset_name=asset_name, amount=plain(amount), reason=str(reason))
