"""What an order needs reserved, what a trade moves, and what fills must sum to."""

from decimal import Decimal
from typing import Any

import pytest

from infra.reconcile.orders import required, uncovered
from infra.reconcile.trades import expected_legs, misfilled, unsettled

D = Decimal


def order(**values: Any) -> dict[str, Any]:
    """A BUY of 10 AAPL at 20 TRY that is open."""
    return {
        "status": "ORDER_CONFIRMED",
        "order_side": "BUY",
        "asset_name": "AAPL",
        "quote_asset": "TRY",
        "quote_scale": 2,
        "size": D(10),
        "price": D(20),
        "filled_size": D(0),
        "filled_notional": D(0),
        "fee_amount": D(0),
        "fee_rate": D("0.001"),
        "fee_minimum": D(0),
        **values,
    }


def reserved(amount: str, asset_name: str = "TRY") -> dict[str, Any]:
    return {"asset_name": asset_name, "remaining": D(amount)}


def trade(**values: Any) -> dict[str, Any]:
    """A SETTLED trade of 2 AAPL at 10 TRY between customers 1 and 2."""
    return {
        "status": "SETTLED",
        "asset_name": "AAPL",
        "quote_asset": "TRY",
        "buyer_id": 1,
        "seller_id": 2,
        "size": D(2),
        "price": D(10),
        "buyer_fee": D("0.1"),
        "seller_fee": D("0.2"),
        **values,
    }


def entries(legs: list[tuple[str, str, Decimal]]) -> list[dict[str, Any]]:
    return [{"account_id": account, "asset_name": asset, "amount": amount} for account, asset, amount in reversed(legs)]


class TestCover:
    def test_a_buy_needs_its_notional_and_fee(self) -> None:
        assert required(order()) == ("TRY", D("200.2"))

    def test_what_is_left_of_a_buy_needs_the_fee_that_is_still_due(self) -> None:
        # Filled 4 at 19: 76, fee 0.08 rounded up. In the end 76 + 120 = 196, fee 0.20: 0.12 are still due.
        assert required(order(filled_size=D(4), filled_notional=D(76))) == ("TRY", D("120.12"))

    def test_a_sell_needs_what_is_left(self) -> None:
        assert required(order(order_side="SELL", filled_size=D(3))) == ("AAPL", D(7))

    def test_an_open_order_with_exactly_that_is_covered(self) -> None:
        assert uncovered(order(), [reserved("200.2")]) is None

    @pytest.mark.parametrize(
        "active", [[], [reserved("200.2"), reserved("1")], [reserved("200.3")], [reserved("200.2", "USD")]]
    )
    def test_an_open_order_with_anything_else_is_not(self, active: list[dict[str, Any]]) -> None:
        assert uncovered(order(status="PENDING_CANCEL"), active) is not None

    @pytest.mark.parametrize("status", ["MATCHED", "CANCELED", "EXPIRED", "REJECTED"])
    def test_a_final_order_has_none(self, status: str) -> None:
        assert uncovered(order(status=status), []) is None
        assert uncovered(order(status=status), [reserved("1")]) is not None

    def test_an_order_that_is_not_confirmed_yet_may_have_one_or_none(self) -> None:
        assert uncovered(order(status="PENDING_RESERVATION"), []) is None
        assert uncovered(order(status="PENDING_RESERVATION"), [reserved("200.2")]) is None


class TestTrades:
    def test_the_legs_move_cash_and_asset_and_the_fees_of_both(self) -> None:
        assert expected_legs(trade()) == [
            ("customer:1:AAPL", "AAPL", D(2)),
            ("customer:1:TRY", "TRY", D("-20.1")),
            ("customer:2:AAPL", "AAPL", D(-2)),
            ("customer:2:TRY", "TRY", D("19.8")),
            ("fee:TRY", "TRY", D("0.3")),
        ]

    def test_a_side_without_an_order_is_the_house(self) -> None:
        accounts = {account for account, _, _ in expected_legs(trade(seller_id=None, seller_fee=D(0)))}
        assert accounts == {"customer:1:AAPL", "customer:1:TRY", "house:AAPL", "house:TRY", "fee:TRY"}

    def test_a_settled_trade_has_exactly_its_legs(self) -> None:
        legs = expected_legs(trade())
        assert unsettled(trade(), entries(legs)) is None
        assert unsettled(trade(), []) is not None
        assert unsettled(trade(), entries(legs[1:])) is not None
        assert unsettled(trade(price=D(11)), entries(legs)) is not None

    def test_a_busted_one_has_none(self) -> None:
        assert unsettled(trade(status="BUSTED"), []) is None
        assert unsettled(trade(status="BUSTED"), entries(expected_legs(trade()))) is not None

    def test_one_that_is_settling_may_have_them_or_not(self) -> None:
        assert unsettled(trade(status="SETTLING"), []) is None
        assert unsettled(trade(status="SETTLING"), entries(expected_legs(trade()))) is None

    def test_one_that_was_never_made_has_none(self) -> None:
        assert unsettled(None, entries(expected_legs(trade()))) is not None


class TestFills:
    def fills(self, **values: Any) -> dict[str, Any]:
        return {
            "filled_size": D(4),
            "filled_notional": D(76),
            "fee_amount": D("0.08"),
            "settling_size": D(1),
            **values,
        }

    def filled(self, **values: Any) -> dict[str, Any]:
        return order(filled_size=D(4), filled_notional=D(76), fee_amount=D("0.08"), **values)

    def test_an_order_its_trades_and_the_queue_agree(self) -> None:
        assert misfilled(self.filled(), self.fills(), self.fills(size=D(10), price=D(20))) is None
        assert misfilled(self.filled(), self.fills(), None) is None

    @pytest.mark.parametrize("name", ["filled_size", "filled_notional", "fee_amount"])
    def test_each_total_counts(self, name: str) -> None:
        assert name in str(misfilled({**self.filled(), name: D(1)}, self.fills(), None))

    @pytest.mark.parametrize("name", ["filled_size", "settling_size", "size", "price"])
    def test_the_queue_counts(self, name: str) -> None:
        queued = {**self.fills(size=D(10), price=D(20)), name: D(3)}
        assert f"its {name}" in str(misfilled(self.filled(), self.fills(), queued))

    def test_more_than_the_order_s_size_is_too_much(self) -> None:
        assert "more than its size" in str(misfilled(self.filled(), self.fills(filled_size=D(11)), None))

    def test_an_order_that_does_not_exist_has_none(self) -> None:
        assert misfilled(None, self.fills(), None) is not None
