"""What people are told about which event."""

from decimal import Decimal
from typing import Any

import pytest

from notifier.templates import TEMPLATES, template_for
from shared.contracts.assets import FundsDeposited, FundsWithdrawn, LowBalance
from shared.contracts.customers import CustomerDeactivated, CustomerTierChanged, CustomerUpdated
from shared.contracts.message import contracts
from shared.contracts.orders import (
    OrderCanceled,
    OrderConfirmed,
    OrderExpired,
    OrderMatched,
    OrderPartiallyMatched,
    OrderRejected,
)
from shared.testing.messages import create_customer_event, create_message, create_order_event

_FILL = {"filled_notional": Decimal(205), "fee_amount": Decimal("0.50"), "average_price": Decimal("20.500")}
_ORDER = "BUY 10 AAPL at 20.5 TRY"
CASES = [
    (create_order_event(OrderConfirmed), f"Your order {_ORDER} was accepted."),
    (
        create_order_event(OrderRejected, rejection_reason="INSUFFICIENT_BALANCE"),
        f"Your order {_ORDER} was rejected: your balance is not enough.",
    ),
    (
        create_order_event(OrderRejected, rejection_reason="NEW_REASON"),
        f"Your order {_ORDER} was rejected: reason NEW_REASON.",
    ),
    (create_order_event(OrderCanceled), f"Your order {_ORDER} was canceled."),
    (
        create_order_event(OrderCanceled, filled_size=Decimal("2.0")),
        f"Your order {_ORDER} was canceled. 2 of it had been filled.",
    ),
    (create_order_event(OrderExpired), f"Your order {_ORDER} expired."),
    (
        create_order_event(OrderMatched, **_FILL),
        f"Your order {_ORDER} was filled completely, average price 20.5 TRY, fee 0.5 TRY.",
    ),
    (
        create_order_event(OrderPartiallyMatched, **{**_FILL, "filled_size": Decimal(4), "fee_amount": Decimal(0)}),
        f"Your order {_ORDER}: 4 filled so far, average price 20.5 TRY.",
    ),
    (
        create_message(FundsDeposited(asset_name="TRY", amount=Decimal("1E+3"), reference="r"), customer_id=7),
        "1000 TRY arrived in your account.",
    ),
    (
        create_message(FundsWithdrawn(asset_name="TRY", amount=Decimal(5), reference="r"), customer_id=7),
        "5 TRY left your account.",
    ),
    (
        create_message(LowBalance(asset_name="TRY", size=Decimal(100), usable_size=Decimal(9)), customer_id=7),
        "Of your 100 TRY only 9 can be used.",
    ),
    (create_customer_event(CustomerTierChanged, 7), "Your account is now in the tier VIP."),
    (
        create_customer_event(CustomerDeactivated, 7, active=False),
        "Your account was deactivated. Open orders are being canceled.",
    ),
]


@pytest.mark.parametrize(("message", "said"), CASES, ids=lambda value: getattr(value, "type", None))
def test_each_event_has_its_text(message: Any, said: str) -> None:
    template = template_for(message)
    assert template is not None
    assert template.message(message.payload) == said


def test_every_template_is_tested_and_named_once() -> None:
    assert {type(message.payload) for message, _ in CASES} == set(TEMPLATES)
    assert len({template.name for template in TEMPLATES.values()}) == len(TEMPLATES)


def test_every_event_that_speaks_of_money_or_an_order_and_is_read_here_has_a_template() -> None:
    read = {name for name, known in contracts().items() if "notifier" in known.readers}
    told = {payload.__name__ for payload in TEMPLATES}
    assert {
        name for name in read - told if not name.startswith(("Customer", "Broker", "NotificationPref", "SessionEnded"))
    } == set()


def test_a_state_said_again_tells_nobody() -> None:
    assert template_for(create_customer_event(CustomerTierChanged, 7, after=None)) is None
    assert template_for(create_customer_event(CustomerUpdated, 7)) is None


def test_an_event_of_nobody_tells_nobody() -> None:
    assert template_for(create_order_event(OrderConfirmed, customer_id=None)) is None
