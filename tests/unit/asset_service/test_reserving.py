"""Reserve and release, one command at a time and together."""

from decimal import Decimal

import pytest

from asset_service.states import ReservationStatus
from shared.contracts.assets import AssetReleased, AssetReservationFailed, AssetReserved, LowBalance
from tests.unit.asset_service.worlds import World, release, reserve


@pytest.fixture
def world() -> World:
    return World({(1, "TRY"): "1000", (1, "AAPL"): "10"})


class TestReserve:
    def test_a_buy_blocks_its_notional_and_fee(self, world: World) -> None:
        [event] = world.run(reserve("o", 1, "BUY", "2", "100", fee_rate="0.001", fee_minimum="0.1"))
        assert isinstance(event, AssetReserved)
        assert (event.asset_name, event.amount) == ("TRY", Decimal("200.2"))
        assert (event.before, event.after) == ({"usable_size": "1000"}, {"usable_size": "799.8"})
        assert world.balance(1, "TRY") == (1000, Decimal("799.8"))

    def test_a_sell_blocks_its_size_and_no_cash(self, world: World) -> None:
        [event] = world.run(reserve("o", 1, "SELL", "4", "100", fee_rate="0.5"))
        assert (event.asset_name, event.amount) == ("AAPL", Decimal(4))
        assert world.balance(1, "AAPL") == (10, 6)
        assert world.balance(1, "TRY") == (1000, 1000)

    def test_all_that_is_usable_can_be_blocked_and_no_more(self, world: World) -> None:
        first, low, second = world.run(reserve("o", 1, "BUY", "10", "100"), reserve("p", 1, "BUY", "0.000001", "0.01"))
        assert isinstance(first, AssetReserved)
        assert isinstance(low, LowBalance)
        assert isinstance(second, AssetReservationFailed)
        assert second.reason == "INSUFFICIENT_BALANCE"
        assert world.balance(1, "TRY") == (1000, 0)

    @pytest.mark.parametrize(
        ("asset_name", "customer_id", "reason"),
        [
            ("NOPE", 1, "INSTRUMENT_UNKNOWN"),
            ("TRY", 1, "INSTRUMENT_UNKNOWN"),
            ("HLT", 1, "INSTRUMENT_HALTED"),
            ("HLT", 9, "INSTRUMENT_HALTED"),
            ("AAPL", 9, "CUSTOMER_INACTIVE"),
            ("AAPL", 2, "INSUFFICIENT_BALANCE"),
        ],
    )
    def test_is_refused_for_the_first_reason_that_holds(self, asset_name: str, customer_id: int, reason: str) -> None:
        world = World({(1, "TRY"): "1000", (9, "TRY"): "1000"}, inactive=[9])
        [event] = world.run(reserve("o", customer_id, asset_name=asset_name))
        assert isinstance(event, AssetReservationFailed)
        assert event.reason == reason
        refused = world.reservations["o"]
        assert (refused.status, refused.amount, refused.refusal) == (ReservationStatus.RELEASED, 0, reason)

    def test_is_refused_when_finer_than_the_quote_asset(self, world: World) -> None:
        [event] = world.run(reserve("o", 1, "BUY", "0.000001", "0.001"))
        assert event.reason == "SCALE_EXCEEDED"

    def test_repeated_gets_the_recorded_answer_and_changes_nothing(self, world: World) -> None:
        command = reserve("o", 1, "BUY", "2", "100")
        [first] = world.run(command)
        [again] = world.run(command)
        [third] = world.run(reserve("o", 1, "BUY", "2", "100"))
        assert (again.amount, third.amount) == (first.amount, first.amount)
        assert world.balance(1, "TRY") == (1000, 800)
        assert [said.repeated for said in world.answers] == [False, True, True]

    def test_repeated_after_a_refusal_is_refused_even_if_it_could_be_granted_now(self, world: World) -> None:
        world.run(reserve("o", 1, "BUY", "11", "100"))
        world.assets[(1, "TRY")].size = world.assets[(1, "TRY")].usable_size = Decimal(10_000)
        [again] = world.run(reserve("o", 1, "BUY", "11", "100"))
        assert again.reason == "INSUFFICIENT_BALANCE"


class TestRelease:
    def test_gives_back_what_is_left(self, world: World) -> None:
        _, event = world.run(reserve("o", 1), release("o", 1, "CANCELED"))
        assert isinstance(event, AssetReleased)
        assert (event.asset_name, event.amount, event.reason) == ("TRY", 200, "CANCELED")
        assert world.balance(1, "TRY") == (1000, 1000)
        assert world.reservations["o"].status is ReservationStatus.RELEASED

    def test_for_expiry_ends_as_expired(self, world: World) -> None:
        world.run(reserve("o", 1), release("o", 1, "EXPIRED"))
        assert world.reservations["o"].status is ReservationStatus.EXPIRED

    def test_repeated_answers_the_recorded_amount_and_reason(self, world: World) -> None:
        world.run(reserve("o", 1), release("o", 1, "CANCELED"))
        [again] = world.run(release("o", 1, "EXPIRED"))
        assert (again.amount, again.reason) == (200, "CANCELED")
        assert world.answers[-1].repeated
        assert world.balance(1, "TRY") == (1000, 1000)

    def test_without_a_reservation_leaves_a_tombstone_that_refuses_a_late_reserve(self, world: World) -> None:
        [released] = world.run(release("o", 1))
        [late] = world.run(reserve("o", 1))
        assert (released.amount, released.asset_name) == (0, "")
        assert (type(late), late.reason) == (AssetReservationFailed, "RELEASED_BEFORE")
        assert world.balance(1, "TRY") == (1000, 1000)

    def test_of_a_refused_reservation_gives_nothing(self, world: World) -> None:
        _, event = world.run(reserve("o", 1, "BUY", "11", "100"), release("o", 1))
        assert event.amount == 0


class TestLowBalance:
    def test_is_said_once_per_crossing(self, world: World) -> None:
        first = world.run(reserve("o", 1, "BUY", "9", "100"))
        assert [type(event) for event in first] == [AssetReserved]  # exactly a tenth is not below it
        second = world.run(reserve("p", 1, "BUY", "0.01", "100"))
        assert [type(event) for event in second] == [AssetReserved, LowBalance]
        assert world.answers[-1].aggregate_id == "1:TRY"
        third = world.run(reserve("q", 1, "BUY", "0.01", "100"))
        assert [type(event) for event in third] == [AssetReserved]
        world.run(release("o", 1))
        assert not world.assets[(1, "TRY")].low_balance
        again = world.run(reserve("r", 1, "BUY", "9", "100"))
        assert [type(event) for event in again] == [AssetReserved, LowBalance]
