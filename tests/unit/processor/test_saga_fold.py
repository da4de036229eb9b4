"""How a batch of messages is folded over sagas and the queue, before anything is written."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest

from processor.matching.queue_entry import QueueEntry
from processor.sagas.order_saga import OrderSagaState
from processor.sagas.trade_saga import TradeSagaState
from processor.service.advance import Saga, SagaBatch, UnknownSaga
from processor.states import SagaType
from shared.contracts.assets import AssetReleased, AssetReservationFailed, AssetReserved
from shared.contracts.message import Message
from shared.contracts.orders import OrderCancelRequested, OrderConfirmed, OrderCreated, OrderMatched
from shared.contracts.trades import TradeSettled, TradeSettlementFailed
from shared.db import Connection, Context, UnitOfWork
from shared.ids import new_id
from shared.statemachine import InvalidTransition
from shared.testing.messages import create_message, create_order_event

S = OrderSagaState
TEN = Decimal(10)


class RecordingUnit(UnitOfWork):
    """Remembers what was said; there is no database."""

    def __init__(self) -> None:
        super().__init__(cast(Connection, None), now=datetime(2026, 1, 1, tzinfo=UTC), context=Context())
        self.said: list[Message[Any]] = []

    def record(self, payload: Any, **values: Any) -> Message[Any]:
        message = super().record(payload, **values)
        self.said.append(message)
        return message


class World:
    """A batch over sagas that were read, and what it says."""

    def __init__(self) -> None:
        self.unit = RecordingUnit()
        self.batch = SagaBatch(self.unit, 30.0)

    def order(self, state: S, *, resume: S | None = None, **entry: Any) -> str:
        """An order's saga; with any `entry` it has a row in the queue, of size 10."""
        order_id = new_id()
        self.batch.sagas[order_id] = Saga(order_id, SagaType.ORDER, state, version=4, resume_state=resume)
        if entry:
            values: dict[str, Any] = {"remaining_size": Decimal(0), "in_settlement_size": Decimal(0), **entry}
            filled = TEN - values["remaining_size"] - values["in_settlement_size"]
            self.batch.entries[order_id] = QueueEntry(
                id=order_id,
                version=3,
                customer_id=7,
                size=TEN,
                filled_size=filled,
                filled_notional=filled * 20,
                fee_amount=Decimal(0),
                bust_count=values.pop("bust_count", 0),
                on_book=values.pop("on_book", values["remaining_size"] > 0),
                **values,
            )
        return order_id

    def trade(self, state: TradeSagaState = TradeSagaState.SETTLING) -> str:
        trade_id = new_id()
        self.batch.sagas[trade_id] = Saga(trade_id, SagaType.TRADE, state)
        return trade_id

    def tell(self, *messages: Message[Any]) -> None:
        for message in messages:
            self.batch.apply(message)

    def state(self, saga_id: str) -> str:
        return self.batch.sagas[saga_id].state.value

    def entry(self, order_id: str) -> QueueEntry:
        return self.batch.entries[order_id]

    def said(self) -> list[str]:
        return [message.type for message in self.unit.said]


@pytest.fixture
def world() -> World:
    return World()


def about(order_id: str, event: type[Any], **values: Any) -> Message[Any]:
    return replace_id(create_order_event(event, **values), order_id)


def replace_id(message: Message[Any], aggregate_id: str) -> Message[Any]:
    return create_message(message.payload, aggregate_id=aggregate_id, customer_id=message.customer_id)


def created(order_id: str | None = None) -> Message[Any]:
    message = create_order_event(
        OrderCreated,
        order_type="LIMIT",
        time_in_force="GTC",
        placed_by=7,
        tier="VIP",
        tier_priority=1,
        beneficial_owner_id=7,
        fee_rate=Decimal("0.001"),
        fee_minimum=Decimal(1),
    )
    return replace_id(message, order_id or new_id())


def settled(trade_id: str, buy: str | None, sell: str | None, size: int, **values: Any) -> Message[Any]:
    return _answer(TradeSettled, trade_id, buy, sell, size, notional=Decimal(size) * 20, **_fees(values))


def _fees(values: dict[str, Any]) -> dict[str, Any]:
    return {"buyer_fee": Decimal(0), "seller_fee": Decimal(0), **values}


def failed(trade_id: str, buy: str | None, sell: str | None, size: int) -> Message[Any]:
    return _answer(TradeSettlementFailed, trade_id, buy, sell, size, reason="RESERVATION_MISMATCH")


def _answer(
    event: type[Any], trade_id: str, buy: str | None, sell: str | None, size: int, **values: Any
) -> Message[Any]:
    payload = event(
        asset_name="AAPL",
        quote_asset="TRY",
        size=Decimal(size),
        price=Decimal(20),
        buy_order_id=buy,
        sell_order_id=sell,
        **values,
    )
    return create_message(payload, aggregate_id=trade_id)


class TestOpening:
    def test_the_reservation_is_asked_for_with_the_order_s_terms(self, world: World) -> None:
        message = created()
        world.tell(message)
        [command] = world.unit.said
        assert (command.type, command.aggregate_id, command.customer_id) == ("ReserveAsset", message.aggregate_id, 7)
        assert command.causation_id == message.event_id
        assert (command.payload.size, command.payload.fee_rate) == (10, Decimal("0.001"))
        saga = world.batch.sagas[message.aggregate_id]
        assert saga.awaiting_batch_id == world.unit.batch_id("asset_service", command)

    def test_a_repeat_in_the_same_batch_changes_nothing(self, world: World) -> None:
        message = created()
        world.tell(message, replace_id(message, message.aggregate_id))
        assert world.said() == ["ReserveAsset"]

    def test_a_cancel_in_the_same_batch_is_released_behind_the_reserve(self, world: World) -> None:
        message = created()
        world.tell(message, about(message.aggregate_id, OrderCancelRequested))
        assert world.said() == ["ReserveAsset", "ReleaseReservation"]
        assert world.state(message.aggregate_id) == "RELEASING"


class TestConfirming:
    def test_a_reserved_order_is_confirmed_and_joins_once_it_is(self, world: World) -> None:
        order = world.order(S.RESERVING)
        world.tell(create_message(AssetReserved(asset_name="TRY", amount=TEN), aggregate_id=order))
        assert (world.said(), list(world.batch.joining)) == (["ConfirmOrder"], [])
        world.tell(about(order, OrderConfirmed))
        assert (world.state(order), list(world.batch.joining)) == ("RESTING", [order])

    def test_orders_join_in_the_order_of_their_confirmations(self, world: World) -> None:
        orders = [world.order(S.CONFIRMING) for _ in range(5)]
        world.tell(*(about(order, OrderConfirmed) for order in reversed(orders)))
        assert list(world.batch.joining) == orders[::-1]

    def test_a_repeated_confirmation_does_not_join_again(self, world: World) -> None:
        order = world.order(S.RESTING)
        world.tell(about(order, OrderConfirmed))
        assert not world.batch.joining and not world.batch.sagas[order].steps

    def test_a_cancel_in_the_batch_of_the_confirmation_keeps_it_off_the_book(self, world: World) -> None:
        order = world.order(S.CONFIRMING)
        world.tell(about(order, OrderConfirmed), about(order, OrderCancelRequested))
        assert not world.batch.joining
        assert (world.state(order), world.said()) == ("RELEASING", ["ReleaseReservation"])

    def test_the_reason_of_a_refusal_is_passed_on(self, world: World) -> None:
        order = world.order(S.RESERVING)
        refusal = AssetReservationFailed(asset_name="TRY", amount=TEN, reason="INSUFFICIENT_BALANCE")
        world.tell(create_message(refusal, aggregate_id=order))
        assert world.unit.said[0].payload.rejection_reason == "INSUFFICIENT_BALANCE"
        assert world.batch.sagas[order].reason == "INSUFFICIENT_BALANCE", "needed again if the command is sent again"


class TestFills:
    def test_both_sides_of_a_trade_go_on(self, world: World) -> None:
        trade, buy, sell = (
            world.trade(),
            world.order(S.RESTING, in_settlement_size=TEN),
            world.order(S.RESTING, in_settlement_size=TEN),
        )
        world.tell(settled(trade, buy, sell, 10, buyer_fee=Decimal(2), seller_fee=Decimal(3)))
        assert world.said() == ["MarkOrderMatched", "MarkOrderMatched"]
        assert [m.payload.fee_amount for m in world.unit.said] == [2, 3]
        assert {world.state(order) for order in (buy, sell)} == {"FINISHING"}
        [finished] = world.batch.finished_trades
        assert (finished["id"], finished["status"], finished["buyer_fee"]) == (trade, "SETTLED", 2)

    def test_the_totals_are_over_all_fills_so_far(self, world: World) -> None:
        order = world.order(S.RESTING, remaining_size=Decimal(2), in_settlement_size=Decimal(5))
        world.tell(settled(world.trade(), order, None, 3), settled(world.trade(), order, None, 2))
        assert world.said() == ["MarkOrderPartiallyMatched"] * 2
        assert [m.payload.filled_size for m in world.unit.said] == [6, 8]
        assert world.unit.said[-1].payload.filled_notional == 160
        assert world.unit.said[0].aggregate_version < world.unit.said[1].aggregate_version

    def test_a_repeated_answer_of_a_trade_changes_nothing(self, world: World) -> None:
        order = world.order(S.RESTING, remaining_size=Decimal(5), in_settlement_size=Decimal(5))
        message = settled(world.trade(), order, None, 3)
        world.tell(message, message)
        assert world.said() == ["MarkOrderPartiallyMatched"]
        assert world.entry(order).in_settlement_size == 2
        assert len(world.batch.finished_trades) == 1

    def test_a_fill_behind_a_cancel_is_told_and_its_rest_released_after_the_last(self, world: World) -> None:
        order = world.order(S.RESTING, remaining_size=Decimal(4), in_settlement_size=Decimal(6))
        world.tell(about(order, OrderCancelRequested))
        assert (world.state(order), world.said(), world.entry(order).on_book) == ("CLOSING", [], False)
        world.tell(settled(world.trade(), order, None, 3))
        assert (world.state(order), world.said()) == ("CLOSING", ["MarkOrderPartiallyMatched"])
        world.tell(settled(world.trade(), order, None, 3))
        assert world.state(order) == "RELEASING"
        assert world.said()[1:] == ["MarkOrderPartiallyMatched", "ReleaseReservation"]
        awaited = world.unit.batch_id("asset_service", world.unit.said[-1])
        assert world.batch.sagas[order].awaiting_batch_id == awaited

    def test_the_last_fill_wins_against_a_cancel(self, world: World) -> None:
        order = world.order(S.RESTING, in_settlement_size=TEN)
        world.tell(about(order, OrderCancelRequested), settled(world.trade(), order, None, 10))
        assert (world.state(order), world.said()) == ("FINISHING", ["MarkOrderMatched"])

    def test_a_trade_of_an_order_that_is_not_in_the_queue_cannot_be(self, world: World) -> None:
        with pytest.raises(UnknownSaga):
            world.tell(settled(world.trade(), world.order(S.RESTING), None, 1))


class TestBusts:
    def test_both_remainders_return_to_the_book(self, world: World) -> None:
        sides = [world.order(S.RESTING, in_settlement_size=TEN), world.order(S.RESTING, in_settlement_size=TEN)]
        world.tell(failed(world.trade(), *sides, 10))
        assert [(world.entry(o).remaining_size, world.entry(o).on_book) for o in sides] == [(10, True)] * 2
        assert [world.state(o) for o in sides] == ["RESTING"] * 2
        assert world.said() == []
        assert world.batch.finished_trades[0]["bust_reason"] == "RESERVATION_MISMATCH"

    def test_the_second_bust_takes_the_order_off_the_book_for_a_person(self, world: World) -> None:
        order = world.order(S.RESTING, in_settlement_size=TEN)
        trade = world.trade()
        world.tell(failed(world.trade(), order, None, 4), failed(trade, order, None, 4))
        saga = world.batch.sagas[order]
        assert (world.state(order), saga.resume_state, world.entry(order).on_book) == ("NEEDS_HUMAN", "RESTING", False)
        assert saga.reason == f"trade {trade}: RESERVATION_MISMATCH"

    def test_the_last_bust_of_a_canceled_order_releases_it(self, world: World) -> None:
        order = world.order(S.CLOSING, in_settlement_size=TEN, on_book=False)
        world.tell(failed(world.trade(), order, None, 4))
        assert (world.state(order), world.said()) == ("CLOSING", [])
        world.tell(failed(world.trade(), order, None, 6))
        assert (world.state(order), world.said()) == ("RELEASING", ["ReleaseReservation"])
        assert world.unit.said[0].payload.reason == "CANCELED"
        assert not world.entry(order).on_book


class TestReleasing:
    def test_what_is_released_is_canceled_or_expired_by_its_reason(self, world: World) -> None:
        canceled, expired = world.order(S.RELEASING), world.order(S.RELEASING)
        for order, reason in ((canceled, "CANCELED"), (expired, "EXPIRED")):
            released = AssetReleased(asset_name="TRY", amount=TEN, reason=reason)
            world.tell(create_message(released, aggregate_id=order))
        assert world.said() == ["MarkOrderCanceled", "MarkOrderExpired"]
        assert (world.state(canceled), world.state(expired)) == ("CANCELING", "EXPIRING")

    def test_a_reservation_refused_before_the_release_rejects_the_order(self, world: World) -> None:
        order = world.order(S.RELEASING)
        refusal = AssetReservationFailed(asset_name="TRY", amount=TEN, reason="INSUFFICIENT_BALANCE")
        released = AssetReleased(asset_name="", amount=Decimal(0), reason="CANCELED")
        world.tell(create_message(refusal, aggregate_id=order), create_message(released, aggregate_id=order))
        assert (world.state(order), world.said()) == ("REJECTING", ["RejectOrder"])


class TestOneThatWaitsForAPerson:
    def test_a_cancel_is_not_forgotten(self, world: World) -> None:
        resting = world.order(S.NEEDS_HUMAN, resume=S.RESTING, remaining_size=TEN, on_book=False)
        settling = world.order(S.NEEDS_HUMAN, resume=S.RESTING, in_settlement_size=Decimal(1))
        confirming = world.order(S.NEEDS_HUMAN, resume=S.CONFIRMING)
        orders = (resting, settling, confirming)
        world.tell(*(about(order, OrderCancelRequested) for order in orders))
        assert [world.state(order) for order in orders] == ["RELEASING", "CLOSING", "RELEASING"]
        assert world.said() == ["ReleaseReservation"] * 2
        assert [world.batch.sagas[order].resume_state for order in orders] == [None] * 3

    def test_a_fill_is_told_and_the_person_still_decides(self, world: World) -> None:
        order = world.order(
            S.NEEDS_HUMAN, resume=S.RESTING, remaining_size=Decimal(6), in_settlement_size=Decimal(4), on_book=False
        )
        world.batch.sagas[order].reason = "trade x: why"
        world.tell(settled(world.trade(), order, None, 4))
        saga = world.batch.sagas[order]
        assert world.said() == ["MarkOrderPartiallyMatched"]
        assert (world.state(order), saga.resume_state, saga.reason) == ("NEEDS_HUMAN", "RESTING", "trade x: why")
        assert not world.entry(order).on_book

    def test_a_further_bust_changes_nothing_but_the_queue_and_the_reason(self, world: World) -> None:
        order = world.order(
            S.NEEDS_HUMAN, resume=S.RESTING, remaining_size=Decimal(6), in_settlement_size=Decimal(4), bust_count=2,
            on_book=False,
        )  # fmt: skip
        world.tell(failed(world.trade(), order, None, 4))
        assert (world.state(order), world.batch.sagas[order].resume_state) == ("NEEDS_HUMAN", "RESTING")
        assert (world.entry(order).remaining_size, world.entry(order).on_book) == (10, False)

    def test_the_answer_that_comes_after_all_ends_the_wait(self, world: World) -> None:
        confirming = world.order(S.NEEDS_HUMAN, resume=S.CONFIRMING)
        finishing = world.order(S.NEEDS_HUMAN, resume=S.FINISHING)
        matched = {"filled_notional": Decimal(200), "fee_amount": Decimal(0), "average_price": Decimal(20)}
        world.tell(about(confirming, OrderConfirmed), about(finishing, OrderMatched, **matched))
        assert (world.state(confirming), list(world.batch.joining)) == ("RESTING", [confirming])
        assert world.state(finishing) == "COMPLETED"

    def test_what_would_be_impossible_before_still_is(self, world: World) -> None:
        with pytest.raises(InvalidTransition):
            world.tell(about(world.order(S.NEEDS_HUMAN, resume=S.RESERVING), OrderConfirmed))


def test_an_answer_to_a_saga_nobody_began_cannot_be(world: World) -> None:
    with pytest.raises(UnknownSaga):
        world.tell(about(new_id(), OrderConfirmed))


def test_an_answer_to_another_kind_of_saga_cannot_be(world: World) -> None:
    order, trade = world.order(S.RESTING), world.trade()
    with pytest.raises(UnknownSaga):
        world.tell(settled(order, order, None, 1))
    with pytest.raises(UnknownSaga):
        world.tell(about(trade, OrderConfirmed))
