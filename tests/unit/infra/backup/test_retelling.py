"""From an audit record back to what the notifier makes a notification of."""

from decimal import Decimal
from typing import Any

import pytest

from auditor.records import content_from_event
from infra.backup.retelling import message_of
from notifier.templates import TEMPLATES, template_for
from shared.contracts import Actor, decode_messages, encode_messages
from shared.contracts.assets import FundsDeposited, FundsWithdrawn, LowBalance
from shared.contracts.customers import CustomerDeactivated, CustomerTierChanged
from shared.contracts.orders import (
    OrderCanceled,
    OrderConfirmed,
    OrderExpired,
    OrderMatched,
    OrderPartiallyMatched,
    OrderRejected,
)
from shared.testing.messages import create_customer_event, create_message, create_order_event

CHANGE = {"before": {"status": "A"}, "after": {"status": "B"}}
FILL = {
    "filled_size": Decimal(4),
    "filled_notional": Decimal(82),
    "fee_amount": Decimal("0.5"),
    "average_price": Decimal("20.5"),
}
MESSAGES = [
    *(create_order_event(event, **CHANGE) for event in (OrderConfirmed, OrderCanceled, OrderExpired)),
    *(create_order_event(event, **CHANGE, **FILL) for event in (OrderMatched, OrderPartiallyMatched)),
    create_order_event(OrderRejected, rejection_reason="INSUFFICIENT_BALANCE", **CHANGE),
    *(
        create_message(
            event(asset_name="TRY", amount=Decimal("1E+3"), reference="r"), customer_id=7, actor=Actor(3, "ADMIN")
        )
        for event in (FundsDeposited, FundsWithdrawn)
    ),
    create_message(LowBalance(asset_name="TRY", size=Decimal(100), usable_size=Decimal(9)), customer_id=7),
    create_customer_event(CustomerTierChanged, 7, version=5, brokers=(3, 4)),
    create_customer_event(CustomerDeactivated, 7, version=6, active=False),
]


def test_everything_that_people_are_told_of_is_tried_here() -> None:
    assert {type(message.payload) for message in MESSAGES} == set(TEMPLATES)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_the_trail_has_what_a_notification_needs(message: Any) -> None:
    [again] = decode_messages(encode_messages([message_of(content_from_event(message))]))
    template = template_for(again)
    assert template is not None
    assert template is template_for(message)
    assert template.message(again.payload) == template.message(message.payload)
    same = (
        "event_id",
        "type",
        "aggregate_type",
        "aggregate_id",
        "customer_id",
        "organization_id",
        "actor",
        "correlation_id",
    )
    assert all(getattr(again, name) == getattr(message, name) for name in same)


def test_what_it_says_of_a_customer_is_older_than_all_that_is_known_of_him() -> None:
    again = message_of(content_from_event(create_customer_event(CustomerTierChanged, 7, version=5)))
    assert (again.aggregate_version, again.payload.email) == (0, None)
