"""Settling trades: amounts, fees, surplus, refusals, repeats."""

from decimal import Decimal

import pytest

from asset_service.states import ReservationStatus
from shared.contracts.trades import TradeSettled, TradeSettlementFailed
from tests.unit.asset_service.worlds import World, release, reserve, settle

BUY, SELL = ("b", 1), ("s", 2)


@pytest.fixture
def world() -> World:
    return World({(1, "TRY"): "1000", (2, "AAPL"): "10"})


class TestSettle:
    def test_moves_cash_one_way_and_shares_the_other(self, world: World) -> None:
        world.run(reserve("b", 1, "BUY", "2", "100"), reserve("s", 2, "SELL", "2", "100"))
        [event] = world.run(settle("t", BUY, SELL, "2", "100"))
        assert isinstance(event, TradeSettled)
        assert (event.notional, event.buyer_fee, event.seller_fee) == (200, 0, 0)
        assert world.balance(1, "TRY") == (800, 800)
        assert world.balance(1, "AAPL") == (2, 2)
        assert world.balance(2, "TRY") == (200, 200)
        assert world.balance(2, "AAPL") == (8, 8)
        assert world.reservations["b"].status is ReservationStatus.SETTLED
        assert world.reservations["s"].status is ReservationStatus.SETTLED

    def test_gives_a_better_price_back_at_once(self, world: World) -> None:
        world.run(reserve("b", 1, "BUY", "4", "100"), reserve("s", 2, "SELL", "4", "90"))
        world.run(settle("t", BUY, SELL, "1", "90"))
        assert world.balance(1, "TRY") == (910, 610)  # three of four still block 300
        assert world.reservations["b"].remaining == 300
        world.run(settle("u", BUY, SELL, "3", "95"))
        assert world.balance(1, "TRY") == (625, 625)
        assert world.reservations["b"].remaining == 0

    def test_fees_are_those_of_all_fills_together(self, world: World) -> None:
        world.run(
            reserve("b", 1, "BUY", "3", "100", fee_rate="0.001", fee_minimum="0.25"),
            reserve("s", 2, "SELL", "3", "100"),
        )
        events = [world.run(settle(f"t{n}", BUY, SELL, "1", "100"))[0] for n in range(3)]
        assert [event.buyer_fee for event in events] == [Decimal("0.25"), 0, Decimal("0.05")]
        assert world.balance(1, "TRY") == (Decimal("699.7"), Decimal("699.7"))
        assert world.ledger_sum("fee:TRY") == Decimal("0.3")

    def test_a_sellers_fee_never_exceeds_the_proceeds_and_is_made_up_by_later_fills(self, world: World) -> None:
        world.run(reserve("b", 1, "BUY", "2", "10"), reserve("s", 2, "SELL", "2", "1", fee_minimum="5"))
        first, second = (
            world.run(settle(trade, BUY, SELL, "1", price))[0] for trade, price in (("t", "3"), ("u", "10"))
        )
        assert (first.seller_fee, second.seller_fee) == (3, 2)
        assert world.balance(2, "TRY") == (8, 8)

    def test_house_stands_in_for_a_missing_side_and_pays_no_fee(self, world: World) -> None:
        world.run(reserve("b", 1, "BUY", "2", "100", fee_rate="0.01"), reserve("s", 2, "SELL", "2", "100"))
        bought, sold = world.run(settle("t", BUY, None), settle("u", None, SELL))
        assert (bought.buyer_fee, bought.seller_fee) == (2, 0)
        assert (sold.buyer_fee, sold.seller_fee) == (0, 0)
        assert world.ledger_sum("house:AAPL") == 0
        assert world.ledger_sum("house:TRY") == 0

    def test_repeated_gets_the_same_answer_and_moves_nothing(self, world: World) -> None:
        world.run(reserve("b", 1), reserve("s", 2, "SELL"))
        first, again = world.run(settle("t", BUY, SELL), settle("t", BUY, SELL))
        [third] = world.run(settle("t", BUY, SELL))
        assert first == again == third
        assert world.balance(1, "TRY") == (800, 800)
        assert len(world.postings) == 1

    @pytest.mark.parametrize(
        ("buy", "sell", "size", "price", "reason"),
        [
            (("x", 1), SELL, "1", "100", "RESERVATION_MISSING"),
            (("b", 3), SELL, "1", "100", "RESERVATION_MISSING"),
            (("s", 2), None, "1", "100", "RESERVATION_MISSING"),
            (BUY, ("gone", 2), "1", "100", "RESERVATION_MISSING"),
            (BUY, SELL, "2.000001", "100", "RESERVATION_TOO_SMALL"),
            (BUY, SELL, "1", "100.01", "PRICE_BEYOND_LIMIT"),
            (BUY, SELL, "1", "89.99", "PRICE_BEYOND_LIMIT"),
            (BUY, SELL, "0.0000001", "99.999", "SCALE_EXCEEDED"),
            (None, None, "1", "100", "NO_ORDER"),
            (BUY, ("s", 1), "1", "100", "SELF_TRADE"),
        ],
    )
    def test_is_refused_with_nothing_moved(
        self,
        world: World,
        buy: tuple[str, int] | None,
        sell: tuple[str, int] | None,
        size: str,
        price: str,
        reason: str,
    ) -> None:
        world.run(
            reserve("b", 1, "BUY", "2", "100"),
            reserve("s", 2, "SELL", "3", "90"),
            reserve("gone", 2, "SELL", "3", "90"),
            release("gone", 2),
        )
        before = {key: (asset.size, asset.usable_size) for key, asset in world.assets.items()}
        [event] = world.run(settle("t", buy, sell, size, price))
        assert isinstance(event, TradeSettlementFailed)
        assert event.reason == reason
        assert {key: (asset.size, asset.usable_size) for key, asset in world.assets.items()} == before
        assert not world.postings
        [again] = world.run(settle("t", buy, sell, size, price))
        assert again == event

    def test_a_release_in_between_settles_nothing_more_and_gives_back_the_rest(self, world: World) -> None:
        world.run(reserve("b", 1, "BUY", "4", "100"), reserve("s", 2, "SELL", "4", "100"))
        _, released, failed = world.run(settle("t", BUY, SELL, "1"), release("b", 1), settle("u", BUY, SELL, "1"))
        assert released.amount == 300
        assert failed.reason == "RESERVATION_MISSING"
        assert world.balance(1, "TRY") == (900, 900)

    def test_what_was_bought_can_be_sold_in_the_same_batch(self, world: World) -> None:
        events = world.run(
            reserve("b", 1), reserve("s", 2, "SELL"), settle("t", BUY, SELL), reserve("o", 1, "SELL", "2", "1")
        )
        assert [type(event).__name__ for event in events] == [
            "AssetReserved",
            "AssetReserved",
            "TradeSettled",
            "AssetReserved",
            "LowBalance",
        ]
