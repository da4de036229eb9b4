"""The sagas' tables, walked over the whole product of states and messages: what moves, what is ignored, what cannot be."""

from itertools import product

import pytest

from processor.sagas import order_saga, trade_saga
from processor.sagas.order_saga import ORDER_SAGA, OrderSagaState
from processor.sagas.trade_saga import TRADE_SAGA, TradeSagaState
from processor.service import commands
from processor.service.advance import RECEIVERS, awaits_answer
from processor.service.deadlines import _AWAITED
from shared.contracts.message import contracts
from shared.statemachine import InvalidTransition

# What each state makes of each message, written down by hand and apart from the code: a target state, or a dot for "ignored".
# What is not here is impossible.
ORDER: dict[str, dict[str, str]] = {
    "RESERVING": {
        "OrderCreated": ".",
        "AssetReserved": "CONFIRMING",
        "AssetReservationFailed": "REJECTING",
        "OrderCancelRequested": "RELEASING",
    },
    "CONFIRMING": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "OrderConfirmed": "RESTING",
        "OrderCancelRequested": "RELEASING",
    },
    "REJECTING": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "AssetReleased": ".",
        "AssetReleasedOnExpiry": ".",
        "OrderConfirmed": ".",
        "OrderRejected": "REJECTED",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
    },
    "RESTING": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "OrderConfirmed": ".",
        "OrderCancelRequested": "RELEASING",
        "CancelRequestedWhileSettling": "CLOSING",
        "TimeOver": "RELEASING",
        "TimeOverWhileSettling": "LAPSING",
        "FillSettled": "RESTING",
        "LastFillSettled": "FINISHING",
        "FillBusted": "RESTING",
        "FillBustedAgain": "NEEDS_HUMAN",
    },
    "CLOSING": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "OrderConfirmed": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
        "FillSettled": "CLOSING",
        "LastFillSettled": "FINISHING",
        "LastOpenFillSettled": "RELEASING",
        "FillBusted": "CLOSING",
        "FillBustedAgain": "CLOSING",
        "LastOpenFillBusted": "RELEASING",
    },
    "LAPSING": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "OrderConfirmed": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
        "FillSettled": "LAPSING",
        "LastFillSettled": "FINISHING",
        "LastOpenFillSettled": "RELEASING",
        "FillBusted": "LAPSING",
        "FillBustedAgain": "LAPSING",
        "LastOpenFillBusted": "RELEASING",
    },
    "RELEASING": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": "REJECTING",
        "AssetReleased": "CANCELING",
        "AssetReleasedOnExpiry": "EXPIRING",
        "OrderConfirmed": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
    },
    "CANCELING": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "AssetReleased": ".",
        "OrderConfirmed": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
        "OrderCanceled": "CANCELED",
    },
    "EXPIRING": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "AssetReleasedOnExpiry": ".",
        "OrderConfirmed": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
        "OrderExpired": "EXPIRED",
    },
    "FINISHING": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "OrderConfirmed": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
        "OrderMatched": "COMPLETED",
    },
    "COMPLETED": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "OrderConfirmed": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
        "OrderMatched": ".",
    },
    "CANCELED": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "AssetReleased": ".",
        "OrderConfirmed": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
        "OrderCanceled": ".",
    },
    "EXPIRED": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "AssetReleasedOnExpiry": ".",
        "OrderConfirmed": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
        "OrderExpired": ".",
    },
    "REJECTED": {
        "OrderCreated": ".",
        "AssetReserved": ".",
        "AssetReservationFailed": ".",
        "AssetReleased": ".",
        "AssetReleasedOnExpiry": ".",
        "OrderConfirmed": ".",
        "OrderRejected": ".",
        "OrderCancelRequested": ".",
        "CancelRequestedWhileSettling": ".",
        "TimeOver": ".",
        "TimeOverWhileSettling": ".",
    },
    # Decided by the state it was stuck in.
    "NEEDS_HUMAN": {},
}
TRADE: dict[str, dict[str, str]] = {
    "SETTLING": {"TradeSettled": "SETTLED", "TradeSettlementFailed": "BUSTED"},
    "SETTLED": {"TradeSettled": ".", "TradeSettlementFailed": "."},
    "BUSTED": {"TradeSettled": ".", "TradeSettlementFailed": "."},
    "NEEDS_HUMAN": {"TradeSettled": "SETTLED", "TradeSettlementFailed": "BUSTED"},
}


class TestOrderSaga:
    def test_the_walk_names_every_state(self) -> None:
        assert set(ORDER) == set(OrderSagaState)
        assert {message for row in ORDER.values() for message in row} == set(order_saga.MESSAGES)

    @pytest.mark.parametrize(("state", "message"), list(product(OrderSagaState, order_saga.MESSAGES)))
    def test_every_pair_is_a_row_or_ignored_or_impossible(self, state: OrderSagaState, message: str) -> None:
        expected = ORDER[state].get(message)
        if expected is None:
            with pytest.raises(InvalidTransition) as refusal:
                ORDER_SAGA.decide(state, message)
            assert (refusal.value.state, refusal.value.message) == (state, message)
            return
        transition = ORDER_SAGA.decide(state, message)
        assert (transition.target.value if transition else ".") == expected

    def test_every_state_can_reach_an_end(self) -> None:
        reaching: set[str] = set(order_saga.ENDED)
        steps = {(state.value, row.target.value) for (state, _), row in ORDER_SAGA.rows.items()}
        # A person puts a stuck saga back to where it was: any state that can get stuck.
        steps |= {("NEEDS_HUMAN", state.value) for state in (*_AWAITED, OrderSagaState.RESTING)}
        while found := {state for state, target in steps if target in reaching} - reaching:
            reaching |= found
        assert reaching == set(OrderSagaState)

    def test_an_end_is_an_end(self) -> None:
        assert not [state for state, _ in ORDER_SAGA.rows if state in order_saga.ENDED]
        assert ORDER_SAGA.terminal == order_saga.ENDED

    def test_exactly_the_states_with_an_awaited_command_await_an_answer(self) -> None:
        assert {state for state in OrderSagaState if awaits_answer(state)} == set(_AWAITED)

    def test_the_awaited_command_is_the_last_that_leads_there(self) -> None:
        for row in ORDER_SAGA.rows.values():
            if awaits_answer(row.target):
                assert row.commands[-1] == _AWAITED[row.target], row
        opened_with = "ReserveAsset"
        assert _AWAITED[OrderSagaState.RESERVING] == opened_with

    def test_a_release_is_sent_only_when_no_trade_can_be_unsettled(self) -> None:
        """While trades settle there is CLOSING or LAPSING; only what the last of them leaves is released."""
        leading = {(s.value, m) for (s, m), row in ORDER_SAGA.rows.items() if "ReleaseReservation" in row.commands}
        assert leading == {
            ("RESERVING", "OrderCancelRequested"),
            ("CONFIRMING", "OrderCancelRequested"),
            ("RESTING", "OrderCancelRequested"),
            ("RESTING", "TimeOver"),
            ("CLOSING", "LastOpenFillSettled"),
            ("CLOSING", "LastOpenFillBusted"),
            ("LAPSING", "LastOpenFillSettled"),
            ("LAPSING", "LastOpenFillBusted"),
        }


class TestTradeSaga:
    @pytest.mark.parametrize(("state", "message"), list(product(TradeSagaState, trade_saga.MESSAGES)))
    def test_every_pair_is_a_row_or_ignored(self, state: TradeSagaState, message: str) -> None:
        transition = TRADE_SAGA.decide(state, message)
        assert (transition.target.value if transition else ".") == TRADE[state][message]

    def test_anything_else_is_impossible(self) -> None:
        with pytest.raises(InvalidTransition):
            TRADE_SAGA.decide(TradeSagaState.SETTLING, "OrderMatched")

    def test_every_state_reaches_an_end_in_one_step(self) -> None:
        for state in set(TradeSagaState) - trade_saga.ENDED:
            assert {TRADE_SAGA.decide(state, message).target for message in trade_saga.MESSAGES} == trade_saga.ENDED  # type: ignore[union-attr]

    def test_only_one_that_settles_awaits_an_answer(self) -> None:
        assert [state for state in TradeSagaState if awaits_answer(state)] == [TradeSagaState.SETTLING]


class TestCommands:
    def test_every_command_of_a_row_can_be_built_and_has_its_receiver(self) -> None:
        sent = {name for row in ORDER_SAGA.rows.values() for name in row.commands} | set(_AWAITED.values())
        assert sent <= set(commands._BUILDERS)
        assert sent | {"SettleTrade"} == set(RECEIVERS)

    def test_the_receiver_is_the_contract_s_only_reader(self) -> None:
        known = contracts()
        assert {name: known[name].readers for name in RECEIVERS} == {name: (to,) for name, to in RECEIVERS.items()}
