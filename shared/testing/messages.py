"""Factories of messages as a consumer receives them."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from shared.contracts.customers import CustomerState, NotificationPreferencesChanged
from shared.contracts.message import SYSTEM_ACTOR, Actor, Command, Event, Message, contract_of, encode_messages
from shared.contracts.orders import OrderEvent, OrderSide
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.messaging.delivery import Batch, Delivery

OLD = datetime(2020, 1, 1, tzinfo=UTC)


def create_message(
    payload: Event | Command,
    *,
    aggregate_id: str | None = None,
    aggregate_version: int = 1,
    customer_id: int | None = None,
    actor: Actor = SYSTEM_ACTOR,
    occurred_at: datetime | None = None,
) -> Message[Any]:
    known = contract_of(payload)
    return Message(
        event_id=new_id(),
        type=known.name,
        version=known.version,
        occurred_at=occurred_at or datetime.now(UTC),
        aggregate_type=known.aggregate_type,
        aggregate_id=aggregate_id or new_id(),
        aggregate_version=aggregate_version,
        customer_id=customer_id,
        organization_id=ROOT_ORGANIZATION_ID,
        actor=actor,
        correlation_id=new_id(),
        payload=payload,
    )


def create_order_event(event: type[OrderEvent], customer_id: int | None = 7, **values: Any) -> Message[Any]:
    """An event about a BUY of 10 AAPL at 20.5 TRY; `values` are further fields of the payload."""
    payload = event(
        **{
            "asset_name": "AAPL",
            "quote_asset": "TRY",
            "order_side": OrderSide.BUY,
            "size": Decimal(10),
            "price": Decimal("20.50"),
            **values,
        }
    )
    return create_message(payload, customer_id=customer_id)


def create_customer_event(
    event: type[CustomerState], customer_id: int, *, version: int = 1, **values: Any
) -> Message[Any]:
    state: dict[str, Any] = {
        "customer_id": customer_id,
        "username": f"user{customer_id}",
        "email": f"user{customer_id}@example.com",
        "role": "CUSTOMER",
        "tier": "VIP",
        "tier_priority": 1,
        "rate_limit": 1000,
        "fee_rate": Decimal(0),
        "fee_minimum": Decimal(0),
        "active": True,
        "tokens_valid_from": OLD,
        "beneficial_owner_id": customer_id,
        "after": {"tier": "VIP"},
        **values,
    }
    return create_message(
        event(**state), aggregate_id=str(customer_id), aggregate_version=version, customer_id=customer_id
    )


def create_preferences_event(customer_id: int, *, version: int, **values: Any) -> Message[Any]:
    fields: dict[str, Any] = {
        "email_enabled": True,
        "sms_enabled": False,
        "push_enabled": False,
        "preferences": {},
        **values,
    }
    return create_message(
        NotificationPreferencesChanged(**fields),
        aggregate_id=str(customer_id),
        aggregate_version=version,
        customer_id=customer_id,
    )


def create_delivery(*batches: list[Message[Any]], deliveries: int = 1) -> Delivery:
    """A message with these batches."""
    return Delivery("order_service", [Batch(new_id(), deliveries, msgspec.Raw(encode_messages(b))) for b in batches])
