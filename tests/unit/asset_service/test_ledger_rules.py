"""Legs, sums and digests."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asset_service import ledger
from asset_service.ledger import Leg, UnbalancedLegs

SURE = Decimal(10) ** 19  # more than all the others together, so that something is left to post
AMOUNTS = st.decimals(min_value="-1e17", max_value="1e17", places=8, allow_nan=False)


def legs(*rows: tuple[str, str, str]) -> list[Leg]:
    return [Leg(account, asset, Decimal(amount)) for account, asset, amount in rows]


class TestPost:
    def test_keeps_one_leg_per_account_and_none_of_zero(self) -> None:
        posting = ledger.post(
            "trade:1",
            "TRADE",
            "trade",
            "1",
            legs(("a", "TRY", "5"), ("b", "TRY", "-3"), ("b", "TRY", "-2"), ("fee:TRY", "TRY", "0")),
        )
        assert posting.legs == (Leg("a", "TRY", Decimal(5)), Leg("b", "TRY", Decimal(-5)))

    @pytest.mark.parametrize(
        "rows",
        [
            [("a", "TRY", "5"), ("b", "TRY", "-4.99999999")],
            [("a", "TRY", "5"), ("b", "AAPL", "-5")],
            [("a", "TRY", "5")],
            [("a", "TRY", "5"), ("a", "TRY", "-5")],
            [],
        ],
    )
    def test_refuses_what_makes_or_destroys_something_or_moves_nothing(self, rows: list[tuple[str, str, str]]) -> None:
        with pytest.raises(UnbalancedLegs):
            ledger.post("x", "TRADE", "trade", "1", legs(*rows))

    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["TRY", "AAPL"]), AMOUNTS), min_size=1, max_size=20)
    )
    def test_whatever_is_posted_is_balanced(self, rows: list[tuple[str, str, Decimal]]) -> None:
        balanced = [Leg(*row) for row in rows] + [Leg("z", asset, -amount) for _, asset, amount in rows]
        posting = ledger.post("x", "TRADE", "trade", "1", [*balanced, Leg("a", "TRY", SURE), Leg("y", "TRY", -SURE)])
        assert ledger.is_balanced(posting.legs)
        assert posting.digest == ledger.digest(posting.legs[::-1])


class TestDigest:
    def test_depends_on_neither_order_nor_notation(self) -> None:
        one = legs(("a", "TRY", "1.50"), ("b", "TRY", "-1.5"))
        other = legs(("b", "TRY", "-1.500"), ("a", "TRY", "15E-1"))
        assert ledger.digest(one) == ledger.digest(other)

    @pytest.mark.parametrize(
        "changed",
        [("a", "TRY", "1.6"), ("c", "TRY", "1.5"), ("a", "USD", "1.5"), ("a", "TRY", "-1.5")],
    )
    def test_depends_on_everything_else(self, changed: tuple[str, str, str]) -> None:
        assert ledger.digest(legs(("a", "TRY", "1.5"))) != ledger.digest(legs(changed))
