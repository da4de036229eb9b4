"""What a saga remembers of the message that began it."""

from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import msgspec

from shared.contracts.message import SYSTEM_ACTOR, Actor, Message
from shared.contracts.orders import OrderCreated, OrderSide
from shared.ids import ROOT_ORGANIZATION_ID
from shared.money import ZERO

T = TypeVar("T")


class OrderTerms(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An order's terms that its saga needs later: to reserve again, and to put it on the book."""

    asset_name: str
    quote_asset: str
    order_side: OrderSide
    size: Decimal
    price: Decimal
    tier: str
    tier_priority: int
    beneficial_owner_id: int
    fee_rate: Decimal = ZERO
    fee_minimum: Decimal = ZERO
    expires_at: datetime | None = None


class Opening(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The saga's `payload`: who began it, in which conversation, and an order's terms (a trade's are in its own row).

    Not the message itself: each step rewrites the row, and the message was four fifths of it. What is said later is said in its
    name, so it can be the `cause` of a message.
    """

    event_id: str
    correlation_id: str
    customer_id: int | None = None
    organization_id: str = ROOT_ORGANIZATION_ID
    actor: Actor = SYSTEM_ACTOR
    payload: OrderTerms | None = None


def opening_of(message: Message[Any]) -> Opening:
    """Of an OrderCreated, or of the SettleTrade that an admin's match sent."""
    return Opening(
        event_id=message.event_id,
        correlation_id=message.correlation_id,
        customer_id=message.customer_id,
        organization_id=_or_default(message.organization_id, ROOT_ORGANIZATION_ID),
        actor=message.actor,
        payload=_terms(message.payload) if isinstance(message.payload, OrderCreated) else None,
    )


def _or_default(value: T, default: T) -> T:
    # A value is left out when it is the default itself; one that only equals it would be written.
    return default if value == default else value


def _terms(order: OrderCreated) -> OrderTerms:
    return OrderTerms(
        asset_name=order.asset_name,
        quote_asset=order.quote_asset,
        order_side=order.order_side,
        size=order.size,
        price=order.price,
        tier=order.tier,
        tier_priority=order.tier_priority,
        beneficial_owner_id=order.beneficial_owner_id,
        fee_rate=_or_default(order.fee_rate, ZERO),
        fee_minimum=_or_default(order.fee_minimum, ZERO),
        expires_at=order.expires_at,
    )
