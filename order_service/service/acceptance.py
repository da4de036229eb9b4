"""What an order must be to be accepted: judged before anything is stored. Balances and halts are judged by the saga."""

import hashlib
from datetime import datetime

from order_service.errors import CustomerInactive
from order_service.instruments import Instrument
from order_service.schemas import OrderCreate
from order_service.service.placing import Claim, NewOrder
from order_service.states import OrderStatus, TimeInForce
from shared import money
from shared.auth.caller import CallerContext
from shared.auth.permissions import Role, Scope
from shared.auth.principals import Principal
from shared.db import Context
from shared.errors import FieldError, ValidationFailed
from shared.idempotency import IdempotentCall
from shared.ids import new_id


def claim_of(body: OrderCreate, customer_id: int, placed_by: int, call: IdempotentCall | None) -> Claim:
    client_id = (customer_id, placed_by, body.client_order_id) if body.client_order_id else None
    return Claim(new_id(), call, client_id, _digest_of_terms(body))


def _digest_of_terms(body: OrderCreate) -> str:
    """Over the values, however they are written: a size of 10 and one of 10.0 are the same order."""
    expires_at = body.expires_at.isoformat() if body.expires_at else ""
    amounts = (money.text(body.size), money.text(body.price))
    terms = (body.asset_name, body.order_side, body.order_type, body.time_in_force, *amounts, expires_at)
    return hashlib.sha256("\x1f".join(terms).encode()).hexdigest()


def refuse_impossible(body: OrderCreate, instrument: Instrument | None, now: datetime | None = None) -> Instrument:
    """The instrument of an order that its rules allow.

    Args:
        now: needed for orders that end by themselves.

    Raises:
        ValidationFailed: what the body and the instrument make impossible, all of it.
    """
    errors = _errors(body, instrument) + _errors_of_time(body, now)
    if errors or instrument is None:
        raise ValidationFailed("A value of the request is not valid.", errors=errors)
    return instrument


def _errors(body: OrderCreate, instrument: Instrument | None) -> list[FieldError]:
    errors: list[FieldError] = []
    if instrument is None:
        errors.append(FieldError("/asset_name", "There is no such instrument."))
    elif instrument.quote_asset is None:
        errors.append(FieldError("/asset_name", "This is cash; only instruments with a quote asset are traded."))
    else:
        for name, amount, scale in (
            ("size", body.size, instrument.size_scale),
            ("price", body.price, instrument.price_scale),
        ):
            if not money.fits_scale(amount, scale):
                errors.append(FieldError(f"/{name}", f"This instrument's {name} has at most {scale} decimals."))
    if money.multiply(body.size, body.price) >= money.NOTIONAL_LIMIT:
        errors.append(FieldError("/size", "Size times price must be below 10^18."))
    return errors


def _errors_of_time(body: OrderCreate, now: datetime | None) -> list[FieldError]:
    if body.time_in_force is not TimeInForce.GTD:
        return [FieldError("/expires_at", "Only GTD orders have this.")] if body.expires_at is not None else []
    if body.expires_at is None:
        return [FieldError("/expires_at", "A GTD order needs this.")]
    over = now is not None and body.expires_at <= now
    return [FieldError("/expires_at", "This time is over.")] if over else []


def new_order(
    body: OrderCreate,
    instrument: Instrument,
    customer: Principal,
    caller: CallerContext,
    claim: Claim,
    expires_at: datetime | None = None,
) -> NewOrder:
    """The order that a request asks for, with the customer's terms of this moment.

    Raises:
        CustomerInactive: the customer was deactivated.
    """
    if not customer.active:
        raise CustomerInactive()
    context = caller.context(customer.customer_id)
    row = {
        "id": claim.order_id,
        "organization_id": customer.organization_id,
        "client_order_id": body.client_order_id,
        "customer_id": customer.customer_id,
        "beneficial_owner_id": customer.beneficial_owner_id,
        "placed_by": caller.customer_id,
        "placed_by_role": caller.role.value,
        "asset_name": body.asset_name,
        "quote_asset": instrument.quote_asset,
        "quote_scale": instrument.quote_scale,
        "order_side": body.order_side.value,
        "order_type": body.order_type.value,
        "time_in_force": body.time_in_force.value,
        "size": body.size,
        "price": body.price,
        "tier": customer.tier,
        "fee_rate": customer.fee_rate,
        "fee_minimum": customer.fee_minimum,
        "status": OrderStatus.PENDING_RESERVATION.value,
        "expires_at": expires_at,
    }
    return NewOrder(
        row=row,
        tier_priority=customer.tier_priority,
        claim=claim,
        context=Context(context.actor, context.correlation_id, customer.organization_id),
    )


async def ordering_customer(body: OrderCreate, caller: CallerContext) -> Principal:
    """Whose order it is.

    Raises:
        ValidationFailed: nobody is named and the caller is no customer, or one who is none, or not the caller's.
    """
    if body.customer_id is None:
        if caller.scope is not Scope.OWN:
            raise ValidationFailed(errors=[FieldError("/customer_id", "This value is required.")])
        return caller.principal
    customer = await caller.require_customer_async(body.customer_id)
    if customer.role is not Role.CUSTOMER:
        raise ValidationFailed(errors=[FieldError("/customer_id", "There is no such customer.")])
    return customer
