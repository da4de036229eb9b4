"""The steps of the saga, each the work of one transaction: as an ORM user writes them, rows loaded, changed and flushed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from benchmarks.models import (
    Asset,
    AuditLog,
    ClientOrderId,
    LedgerEntry,
    LedgerTransaction,
    Notification,
    Order,
    OrderHistory,
    QueuedOrder,
    Reservation,
    Trade,
)
from shared.ids import new_id


def accept(session: Session, customer_id: int, asset_name: str, order_side: str) -> str:
    """Write an accepted order and return its id; not part of what is measured, as with ours."""
    order = Order(
        id=new_id(),
        client_order_id=new_id(),
        customer_id=customer_id,
        asset_name=asset_name,
        quote_asset="TRY",
        order_side=order_side,
        size=Decimal(1),
        price=Decimal(100),
        status="PENDING_RESERVATION",
    )
    session.add_all(
        [
            order,
            OrderHistory(order_id=order.id, seq=1, status="CREATED"),
            ClientOrderId(customer_id=customer_id, client_order_id=order.client_order_id, order_id=order.id),
            _audit("OrderCreated", "Order", order.id, customer_id, status=order.status),
        ]
    )
    return order.id


def reserve(session: Session, order_id: str) -> bool:
    """Block what the order may cost; False when there is too little."""
    order = session.get_one(Order, order_id)
    name, amount = (
        (order.quote_asset, order.size * order.price) if order.order_side == "BUY" else (order.asset_name, order.size)
    )
    asset = session.get_one(Asset, (order.customer_id, name), with_for_update=True)
    if asset.usable_size < amount:
        session.add(_audit("AssetReservationFailed", "Order", order.id, order.customer_id))
        return False
    asset.usable_size -= amount
    asset.version += 1
    session.add(Reservation(order_id=order.id, customer_id=order.customer_id, asset_name=name, amount=amount))
    session.add(_audit("AssetReserved", "Order", order.id, order.customer_id, amount=str(amount)))
    return True


def confirm(session: Session, order_id: str) -> None:
    order = session.get_one(Order, order_id, with_for_update=True)
    _move(session, order, "ASSET_RESERVED", "ORDER_CONFIRMED")
    _tell(session, order, "OrderConfirmed")


def reject(session: Session, order_id: str) -> None:
    order = session.get_one(Order, order_id, with_for_update=True)
    _move(session, order, "REJECTED")
    _tell(session, order, "OrderRejected")


def join_book(session: Session, order_id: str) -> str | None:
    """Put the order on the book and match it with the first that crosses; the trade's id if there is one."""
    order = session.get_one(Order, order_id)
    session.execute(select(func.pg_advisory_xact_lock(func.hashtext(order.asset_name))))
    queued = QueuedOrder(
        order_id=order.id,
        customer_id=order.customer_id,
        asset_name=order.asset_name,
        quote_asset=order.quote_asset,
        order_side=order.order_side,
        price=order.price,
        remaining_size=order.size,
    )
    session.add(queued)
    is_buy = order.order_side == "BUY"
    other = session.scalars(
        select(QueuedOrder)
        .where(
            QueuedOrder.asset_name == order.asset_name,
            QueuedOrder.order_side == ("SELL" if is_buy else "BUY"),
            QueuedOrder.remaining_size > 0,
            QueuedOrder.customer_id != order.customer_id,
            QueuedOrder.price <= order.price if is_buy else QueuedOrder.price >= order.price,
        )
        .order_by(QueuedOrder.price if is_buy else QueuedOrder.price.desc(), QueuedOrder.seq)
        .limit(1)
        .with_for_update()
    ).first()
    if other is None:
        return None
    size = min(queued.remaining_size, other.remaining_size)
    queued.remaining_size -= size
    other.remaining_size -= size
    buy, sell = (queued, other) if is_buy else (other, queued)
    trade = Trade(
        id=new_id(),
        asset_name=order.asset_name,
        quote_asset=order.quote_asset,
        buy_order_id=buy.order_id,
        sell_order_id=sell.order_id,
        buyer_id=buy.customer_id,
        seller_id=sell.customer_id,
        size=size,
        price=other.price,
    )
    session.add(trade)
    return trade.id


def settle(session: Session, trade_id: str) -> tuple[str, str]:
    """Move both legs; the two orders."""
    trade = session.get_one(Trade, trade_id, with_for_update=True)
    notional = trade.size * trade.price
    legs = [
        (trade.buyer_id, trade.asset_name, trade.size),
        (trade.buyer_id, trade.quote_asset, -notional),
        (trade.seller_id, trade.asset_name, -trade.size),
        (trade.seller_id, trade.quote_asset, notional),
    ]
    # In one order everywhere, so that two settlements never wait for each other in a circle.
    for customer_id, name, amount in sorted(legs):
        asset = session.get_one(Asset, (customer_id, name), with_for_update=True)
        asset.size += amount
        # What leaves was blocked before.
        asset.usable_size += max(amount, Decimal(0))
        asset.version += 1
    for order_id, amount in ((trade.buy_order_id, notional), (trade.sell_order_id, trade.size)):
        reservation = session.scalars(
            select(Reservation).where(Reservation.order_id == order_id).with_for_update()
        ).one()
        reservation.consumed += amount
        reservation.status = "SETTLED" if reservation.consumed == reservation.amount else "ACTIVE"
    session.add(LedgerTransaction(tx_ref=f"trade:{trade.id}", digest=_digest(legs)))
    session.flush()
    session.add_all(
        LedgerEntry(tx_ref=f"trade:{trade.id}", customer_id=customer_id, asset_name=name, amount=amount)
        for customer_id, name, amount in legs
    )
    trade.status = "SETTLED"
    session.add(_audit("TradeSettled", "Trade", trade.id, None, size=str(trade.size), price=str(trade.price)))
    return trade.buy_order_id, trade.sell_order_id


def mark_matched(session: Session, order_id: str, trade_id: str) -> None:
    order = session.get_one(Order, order_id, with_for_update=True)
    trade = session.get_one(Trade, trade_id)
    order.filled_size += trade.size
    _move(session, order, "MATCHED" if order.filled_size == order.size else "PARTIALLY_MATCHED")
    _tell(session, order, "OrderMatched")


def _move(session: Session, order: Order, *statuses: str) -> None:
    for status in statuses:
        order.status = status
        order.version += 1
        session.add(OrderHistory(order_id=order.id, seq=order.version, status=status))


def _tell(session: Session, order: Order, what: str) -> None:
    session.add(_audit(what, "Order", order.id, order.customer_id, status=order.status))
    message = f"Your order of {order.size} {order.asset_name} is {order.status}."
    session.add(Notification(customer_id=order.customer_id, order_id=order.id, type=what, message=message))


def _audit(action: str, entity_type: str, entity_id: str, customer_id: int | None, **values: Any) -> AuditLog:
    return AuditLog(
        action=action, entity_type=entity_type, entity_id=entity_id, customer_id=customer_id, new_value=values
    )


def _digest(legs: Iterable[tuple[int, str, Decimal]]) -> str:
    return hashlib.sha256("\n".join(f"{each[0]} {each[1]} {each[2]}" for each in legs).encode()).hexdigest()
