"""HTTP bodies of the processor."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from shared.http.fields import AssetName, Body, DecimalText, PositiveDecimal, UuidText


class MatchCreate(Body):
    """`price` defaults to the order's limit, `size` to what is left of it."""

    price: PositiveDecimal | None = None
    size: PositiveDecimal | None = None


class CrossCreate(Body):
    """`price` defaults to the limit of the order that joined first, `size` to the smaller remainder."""

    buy_order_id: UuidText
    sell_order_id: UuidText
    price: PositiveDecimal | None = None
    size: PositiveDecimal | None = None


class RunCreate(Body):
    """Without `asset_name`: every instrument."""

    asset_name: AssetName | None = None


class TradeRead(BaseModel):
    """A side without an order is HOUSE. `price` in `quote_asset` per unit."""

    id: str
    asset_name: str
    quote_asset: str
    buy_order_id: str | None
    sell_order_id: str | None
    size: DecimalText
    price: DecimalText
    status: str
    bust_reason: str | None
    created_at: datetime
    settled_at: datetime | None


class TradesRead(BaseModel):
    trades: list[TradeRead]


class RunRead(TradesRead):
    """`more`: crossing orders are left; run again."""

    more: bool


class QueuedOrderRead(BaseModel):
    order_id: str
    customer_id: int
    customer_tier: str
    priority: int
    asset_name: str
    quote_asset: str
    order_side: str
    price: DecimalText
    size: DecimalText
    remaining_size: DecimalText
    in_settlement_size: DecimalText
    expires_at: datetime | None
    created_at: datetime


class SagaRead(BaseModel):
    """`payload` is what it remembers of the message that began it: actor, correlation, an order's terms."""

    id: str
    saga_type: str
    aggregate_id: str
    current_state: str
    resume_state: str | None
    reason: str | None
    step: int
    retry_count: int
    deadline_at: datetime | None
    created_at: datetime
    updated_at: datetime
    payload: dict[str, Any]
