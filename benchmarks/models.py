"""The rows of a saga, as ours writes them: orders and their history, balances and reservations, the book, trades, the ledger, the
audit trail and notifications. In one database, where ours are spread over four and MongoDB: that favours the peers."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, DateTime, ForeignKey, Index, Numeric, Sequence, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.ids import new_id

AMOUNT = Numeric(38, 18)


class Base(DeclarativeBase):
    type_annotation_map = {str: Text, Decimal: AMOUNT, datetime: DateTime(timezone=True), dict[str, Any]: JSONB}  # noqa: RUF012


def _id() -> Mapped[str]:
    return mapped_column(UUID(as_uuid=False), primary_key=True, default=new_id)


def _reference(*, primary_key: bool = False) -> Mapped[str]:
    return mapped_column(UUID(as_uuid=False), primary_key=primary_key)


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (Index("idx_orders_customer_date", "customer_id", "created_at"),)
    id: Mapped[str] = _id()
    client_order_id: Mapped[str]
    customer_id: Mapped[int] = mapped_column(BigInteger)
    asset_name: Mapped[str]
    quote_asset: Mapped[str]
    order_side: Mapped[str]
    size: Mapped[Decimal]
    price: Mapped[Decimal]
    filled_size: Mapped[Decimal] = mapped_column(default=Decimal(0))
    status: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = _now()


class OrderHistory(Base):
    __tablename__ = "order_history"
    order_id: Mapped[str] = _reference(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    status: Mapped[str]
    created_at: Mapped[datetime] = _now()


class ClientOrderId(Base):
    __tablename__ = "client_order_ids"
    customer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    client_order_id: Mapped[str] = mapped_column(primary_key=True)
    order_id: Mapped[str] = _reference()


class Asset(Base):
    __tablename__ = "assets"
    customer_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    asset_name: Mapped[str] = mapped_column(primary_key=True)
    size: Mapped[Decimal]
    usable_size: Mapped[Decimal]
    version: Mapped[int] = mapped_column(default=1)


class Reservation(Base):
    __tablename__ = "asset_reservations"
    id: Mapped[str] = _id()
    order_id: Mapped[str] = mapped_column(UUID(as_uuid=False), unique=True)
    customer_id: Mapped[int] = mapped_column(BigInteger)
    asset_name: Mapped[str]
    amount: Mapped[Decimal]
    consumed: Mapped[Decimal] = mapped_column(default=Decimal(0))
    status: Mapped[str] = mapped_column(default="ACTIVE")


class QueuedOrder(Base):
    __tablename__ = "matching_queue"
    __table_args__ = (
        Index(
            "idx_matching_queue",
            "asset_name",
            "order_side",
            "price",
            "seq",
            postgresql_where=text("remaining_size > 0"),
        ),
    )
    order_id: Mapped[str] = _reference(primary_key=True)
    customer_id: Mapped[int] = mapped_column(BigInteger)
    asset_name: Mapped[str]
    quote_asset: Mapped[str]
    order_side: Mapped[str]
    price: Mapped[Decimal]
    remaining_size: Mapped[Decimal]
    seq: Mapped[int] = mapped_column(BigInteger, Sequence("matching_queue_seq"))


class Trade(Base):
    __tablename__ = "trades"
    id: Mapped[str] = _id()
    asset_name: Mapped[str]
    quote_asset: Mapped[str]
    buy_order_id: Mapped[str] = mapped_column(UUID(as_uuid=False), index=True)
    sell_order_id: Mapped[str] = mapped_column(UUID(as_uuid=False), index=True)
    buyer_id: Mapped[int] = mapped_column(BigInteger)
    seller_id: Mapped[int] = mapped_column(BigInteger)
    size: Mapped[Decimal]
    price: Mapped[Decimal]
    status: Mapped[str] = mapped_column(default="SETTLING")
    created_at: Mapped[datetime] = _now()


class LedgerTransaction(Base):
    __tablename__ = "ledger_transactions"
    tx_ref: Mapped[str] = mapped_column(primary_key=True)
    digest: Mapped[str]
    created_at: Mapped[datetime] = _now()


class LedgerEntry(Base):
    __tablename__ = "ledger_entries"
    id: Mapped[str] = _id()
    tx_ref: Mapped[str] = mapped_column(ForeignKey("ledger_transactions.tx_ref"), index=True)
    customer_id: Mapped[int] = mapped_column(BigInteger, index=True)
    asset_name: Mapped[str]
    amount: Mapped[Decimal]


class AuditLog(Base):
    __tablename__ = "audit_logs"
    event_id: Mapped[str] = _id()
    action: Mapped[str]
    entity_type: Mapped[str]
    entity_id: Mapped[str] = mapped_column(index=True)
    customer_id: Mapped[int | None] = mapped_column(BigInteger)
    new_value: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _now()


class Notification(Base):
    __tablename__ = "notifications"
    __table_args__ = (Index("uq_notifications", "customer_id", "order_id", "type", unique=True),)
    id: Mapped[str] = _id()
    customer_id: Mapped[int] = mapped_column(BigInteger)
    order_id: Mapped[str] = _reference()
    type: Mapped[str]
    message: Mapped[str]
    created_at: Mapped[datetime] = _now()


class SagaInstance(Base):
    """How far the saga of an order is; DBOS keeps its own."""

    __tablename__ = "saga_instances"
    saga_id: Mapped[str] = _reference(primary_key=True)
    current_state: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)


class ProcessedEvent(Base):
    """A step that was taken is not taken again when its message comes twice; DBOS keeps its own."""

    __tablename__ = "processed_events"
    step: Mapped[str] = mapped_column(primary_key=True)
    event_id: Mapped[str] = _reference(primary_key=True)
    processed_at: Mapped[datetime] = _now()
