"""The whole product of an order's states and messages."""

from itertools import product

import pytest

from order_service.states import FINAL, OrderStatus
from order_service.transitions import (
    ANSWERED_AGAIN,
    ARCHIVE,
    MESSAGES,
    ORDER_MACHINE,
    ORDER_TRANSITIONS,
    REQUEST_CANCEL,
)
from shared.contracts.message import Command, contracts
from shared.contracts.orders import ORDER
from shared.statemachine import InvalidTransition

S = OrderStatus
CONTRACT = {
    S.PENDING_RESERVATION: {S.ASSET_RESERVED, S.REJECTED, S.PENDING_CANCEL},
    S.ASSET_RESERVED: {S.ORDER_CONFIRMED, S.PENDING_CANCEL, S.REJECTED},
    S.ORDER_CONFIRMED: {S.PARTIALLY_MATCHED, S.MATCHED, S.PENDING_CANCEL, S.EXPIRED},
    S.PARTIALLY_MATCHED: {S.PARTIALLY_MATCHED, S.MATCHED, S.PENDING_CANCEL, S.EXPIRED},
    S.PENDING_CANCEL: {S.CANCELED, S.MATCHED, S.EXPIRED, S.REJECTED, S.PENDING_CANCEL},
    **{state: {S.ARCHIVED} for state in FINAL},
}
"""Which state may follow which; the contract's picture."""


def moves() -> set[tuple[OrderStatus, OrderStatus]]:
    found = set()
    for (state, _), transition in ORDER_TRANSITIONS.items():
        found |= set(zip((state, *transition.path), transition.path, strict=False))
    return found


def test_moves_are_exactly_those_of_the_contract() -> None:
    assert moves() == {(state, target) for state, targets in CONTRACT.items() for target in targets}


@pytest.mark.parametrize(("state", "message"), list(product(OrderStatus, MESSAGES)))
def test_every_pair_is_decided(state: OrderStatus, message: str) -> None:
    if (state, message) in ORDER_MACHINE.rows:
        assert ORDER_MACHINE.decide(state, message) is ORDER_TRANSITIONS[state, message]
    elif (state, message) in ORDER_MACHINE.ignored:
        assert ORDER_MACHINE.decide(state, message) is None
    else:
        with pytest.raises(InvalidTransition):
            ORDER_MACHINE.decide(state, message)


def test_messages_are_the_commands_of_the_contract() -> None:
    commands = {
        known.payload.__name__
        for known in contracts().values()
        if issubclass(known.payload, Command) and known.readers == ("order_service",)
    }
    assert commands | {REQUEST_CANCEL, ARCHIVE} == set(MESSAGES)
    assert all(contracts()[name].aggregate_type == ORDER for name in commands)


def test_no_row_leaves_a_terminal_state() -> None:
    assert not {state for state, _ in ORDER_TRANSITIONS} & ORDER_MACHINE.terminal
    assert ORDER_MACHINE.terminal == {S.ARCHIVED}


@pytest.mark.parametrize("state", OrderStatus)
def test_every_state_can_reach_a_terminal_one(state: OrderStatus) -> None:
    reached, waiting = {state}, [state]
    while waiting:
        here = waiting.pop()
        for source, target in moves():
            if source == here and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert reached & ORDER_MACHINE.terminal


@pytest.mark.parametrize(("state", "message"), list(ANSWERED_AGAIN))
def test_a_repeated_answer_is_that_of_the_first_time(state: OrderStatus, message: str) -> None:
    first = {row.event for (_, name), row in ORDER_TRANSITIONS.items() if name == message and row.target == state}
    assert first == {ANSWERED_AGAIN[state, message]}
    assert ORDER_MACHINE.decide(state, message) is None


@pytest.mark.parametrize(("key", "row"), list(ORDER_TRANSITIONS.items()), ids=str)
def test_a_message_seen_again_right_after_does_no_harm(key: tuple[OrderStatus, str], row: object) -> None:
    transition = ORDER_TRANSITIONS[key]
    again = ORDER_MACHINE.decide(transition.target, key[1])
    # A partial fill seen again is told by its totals, which have not grown.
    assert again is None or key[1] == "MarkOrderPartiallyMatched"
