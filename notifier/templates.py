"""What is said about which event: one row per template, pure text from the event's own fields."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared.contracts.assets import FundsDeposited, FundsWithdrawn, LowBalance
from shared.contracts.customers import CustomerDeactivated, CustomerTierChanged
from shared.contracts.message import Event, Message
from shared.contracts.orders import (
    OrderCanceled,
    OrderConfirmed,
    OrderEvent,
    OrderExpired,
    OrderFilled,
    OrderMatched,
    OrderPartiallyMatched,
    OrderRejected,
)
from shared.money import text

_REASONS = {
    "INSUFFICIENT_BALANCE": "your balance is not enough",
    "INSTRUMENT_HALTED": "trading in this instrument is halted",
    "INSTRUMENT_UNKNOWN": "this instrument is not traded here",
    "CUSTOMER_INACTIVE": "the account is not active",
}


@dataclass(frozen=True, slots=True)
class Template:
    """`name` is part of a notification's identity: a new wording keeps it, a second notification about the same event
    gets another."""

    name: str
    category: str
    priority: str
    title: str
    message: Callable[[Any], str]

    @property
    def type(self) -> str:
        return self.name.upper()


def template_for(message: Message[Any]) -> Template | None:
    """The template of this event, or None if nobody is told of it."""
    template = TEMPLATES.get(type(message.payload))
    if template is None or message.customer_id is None:
        return None
    if template.category == "ACCOUNT" and message.payload.after is None:
        return None  # a state that was only said again for new readers
    return template


def _order(event: OrderEvent) -> str:
    price = f"{text(event.price)} {event.quote_asset}"
    return f"{event.order_side.value} {text(event.size)} {event.asset_name} at {price}"


def _filled(event: OrderFilled) -> str:
    average = f"{text(event.average_price)} {event.quote_asset}"
    fee = f", fee {text(event.fee_amount)} {event.quote_asset}" if event.fee_amount else ""
    return f"Your order {_order(event)}: {text(event.filled_size)} filled so far, average price {average}{fee}."


def _matched(event: OrderMatched) -> str:
    average = f"{text(event.average_price)} {event.quote_asset}"
    fee = f", fee {text(event.fee_amount)} {event.quote_asset}" if event.fee_amount else ""
    return f"Your order {_order(event)} was filled completely, average price {average}{fee}."


def _ended(what: str) -> Callable[[OrderEvent], str]:
    def message(event: OrderEvent) -> str:
        filled = f" {text(event.filled_size)} of it had been filled." if event.filled_size else ""
        return f"Your order {_order(event)} {what}.{filled}"

    return message


def _rejected(event: OrderRejected) -> str:
    reason = _REASONS.get(event.rejection_reason, f"reason {event.rejection_reason}")
    return f"Your order {_order(event)} was rejected: {reason}."


def _low_balance(event: LowBalance) -> str:
    return f"Of your {text(event.size)} {event.asset_name} only {text(event.usable_size)} can be used."


def _tier(event: CustomerTierChanged) -> str:
    return f"Your account is now in the tier {event.tier}."


TEMPLATES: dict[type[Event], Template] = {
    OrderConfirmed: Template(
        "order_confirmed",
        "ORDER",
        "NORMAL",
        "Order confirmed",
        lambda event: f"Your order {_order(event)} was accepted.",
    ),
    OrderRejected: Template("order_rejected", "ORDER", "HIGH", "Order rejected", _rejected),
    OrderCanceled: Template("order_canceled", "ORDER", "NORMAL", "Order canceled", _ended("was canceled")),
    OrderExpired: Template("order_expired", "ORDER", "NORMAL", "Order expired", _ended("expired")),
    OrderMatched: Template("order_matched", "ORDER", "HIGH", "Order filled", _matched),
    OrderPartiallyMatched: Template("order_partially_matched", "ORDER", "NORMAL", "Order partly filled", _filled),
    FundsDeposited: Template(
        "funds_deposited",
        "TRANSFER",
        "NORMAL",
        "Deposit received",
        lambda event: f"{text(event.amount)} {event.asset_name} arrived in your account.",
    ),
    FundsWithdrawn: Template(
        "funds_withdrawn",
        "TRANSFER",
        "HIGH",
        "Withdrawal made",
        lambda event: f"{text(event.amount)} {event.asset_name} left your account.",
    ),
    LowBalance: Template("low_balance", "BALANCE", "HIGH", "Low balance", _low_balance),
    CustomerTierChanged: Template("customer_tier_changed", "ACCOUNT", "NORMAL", "Tier changed", _tier),
    CustomerDeactivated: Template(
        "customer_deactivated",
        "ACCOUNT",
        "HIGH",
        "Account deactivated",
        lambda event: "Your account was deactivated. Open orders are being canceled.",
    ),
}
