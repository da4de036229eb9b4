"""The answer about an order, written directly and by the model that the document shows."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from order_service.schemas import order_json, order_read

ROW: dict[str, Any] = {
    "id": "019a0000-0000-7000-8000-000000000001",
    "organization_id": "019a0000-0000-7000-8000-000000000002",
    "client_order_id": "mine",
    "customer_id": 7,
    "beneficial_owner_id": 7,
    "placed_by": 9,
    "placed_by_role": "BROKER",
    "asset_name": "AAPL",
    "quote_asset": "TRY",
    "quote_scale": 8,
    "order_side": "BUY",
    "order_type": "LIMIT",
    "time_in_force": "GTC",
    "size": Decimal("10.50"),
    "price": Decimal("1E+2"),
    "filled_size": Decimal(0),
    "filled_notional": Decimal(0),
    "fee_amount": Decimal(0),
    "tier": "VIP",
    "fee_rate": Decimal(0),
    "fee_minimum": Decimal(0),
    "status": "PENDING_RESERVATION",
    "final_status": None,
    "rejection_reason": None,
    "version": 1,
    "created_at": datetime(2026, 3, 1, 12, 0, 0, 123456, UTC),
    "updated_at": datetime(2026, 3, 1, 12, 0, 0, 123456, UTC),
    "expires_at": None,
    "closed_at": None,
}
FILLED = {
    "client_order_id": None,
    "filled_size": Decimal("3.000000000000000001"),
    "filled_notional": Decimal("301.23"),
    "fee_amount": Decimal("0.00000001"),
    "status": "PARTIALLY_MATCHED",
    "version": 5,
}
ENDED = {
    "status": "ARCHIVED",
    "final_status": "REJECTED",
    "rejection_reason": 'INSUFFICIENT_BALANCE "ş" \u2028',
    "updated_at": datetime(2026, 3, 1, 15, tzinfo=timezone(timedelta(hours=3))),
    "expires_at": datetime(2026, 3, 2, 15, 0, 0, tzinfo=UTC),
}


@pytest.mark.parametrize("changes", [{}, FILLED, ENDED])
def test_both_are_the_same(changes: dict[str, Any]) -> None:
    row = {**ROW, **changes}
    assert order_json(row).decode() == order_read(row).model_dump_json()
