"""An order's life in the processor, told by messages, on a real database."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from processor.service.advance import UnknownSaga
from processor.tasks import handler
from shared.contracts.message import Message
from shared.contracts.orders import OrderConfirmed, OrderMatched
from shared.db import UnitOfWork
from shared.ids import new_id
from shared.statemachine import InvalidTransition
from shared.testing.statements import statements_of
from tests.integration.processor.conftest import Processor, about, cancel, canceled, released, reserved


class TestJoining:
    def test_orders_join_in_the_order_of_their_confirmations(self, processor: Processor) -> None:
        openings = [processor.created(price=str(price)) for price in (10, 12, 11)]
        ids = [message.aggregate_id for message in openings]
        processor.tell(*openings)
        processor.tell(*map(reserved, ids))
        processor.tell(*(about(OrderConfirmed, order_id) for order_id in reversed(ids)))
        queue = processor.query("SELECT id::text, price FROM matching_queue ORDER BY joined_seq")
        assert [order_id for order_id, _ in queue] == ids[::-1]
        assert {processor.state(order_id) for order_id in ids} == {"RESTING"}
        assert processor.said(ids[0]) == ["ReserveAsset", "ConfirmOrder"]

    def test_the_terms_are_those_the_order_began_with(self, processor: Processor) -> None:
        order = processor.resting("SELL", "12.50", "3.25", tier="STANDARD", tier_priority=3, beneficial_owner_id=77)
        [row] = processor.query(
            "SELECT order_side, price, size, remaining_size, customer_tier, priority, beneficial_owner_id, quote_asset"
            " FROM matching_queue WHERE id = %s",
            order,
        )
        assert [str(value.normalize()) if hasattr(value, "normalize") else value for value in row] == [
            "SELL", "12.5", "3.25", "3.25", "STANDARD", 3, 77, "TRY",
        ]  # fmt: skip

    def test_repeats_change_nothing(self, processor: Processor) -> None:
        opening = processor.created()
        order = opening.aggregate_id
        for message in (opening, reserved(order), about(OrderConfirmed, order)):
            processor.tell(message)
            processor.tell(message)
        assert processor.said(order) == ["ReserveAsset", "ConfirmOrder"]
        assert processor.query("SELECT count(*) FROM matching_queue WHERE id = %s", order) == [(1,)]

    def test_an_answer_to_an_unknown_order_is_an_error(self, processor: Processor) -> None:
        with pytest.raises(UnknownSaga):
            processor.tell(reserved(new_id()))


class TestCanceling:
    def test_before_anything_is_reserved(self, processor: Processor) -> None:
        opening = processor.created()
        order = opening.aggregate_id
        processor.tell(opening)
        processor.tell(cancel(order))
        assert processor.state(order) == "RELEASING"
        processor.tell(reserved(order))
        processor.tell(released(order))
        processor.tell(canceled(order))
        assert processor.state(order) == "CANCELED"
        assert processor.said(order) == ["ReserveAsset", "ReleaseReservation", "MarkOrderCanceled"]

    def test_before_the_confirmation_is_answered(self, processor: Processor) -> None:
        opening = processor.created()
        order = opening.aggregate_id
        processor.tell(opening)
        processor.tell(reserved(order))
        processor.tell(cancel(order))
        processor.tell(about(OrderConfirmed, order))
        assert (processor.state(order), processor.entry(order)) == ("RELEASING", None)

    def test_on_the_book(self, processor: Processor) -> None:
        order = processor.resting()
        processor.tell(cancel(order))
        assert (processor.state(order), processor.entry(order)) == ("RELEASING", (10, 0, 0, False))
        processor.tell(released(order))
        processor.tell(canceled(order))
        assert (processor.state(order), processor.entry(order)) == ("CANCELED", None)

    def test_twice_or_too_late_changes_nothing(self, processor: Processor, admin: int) -> None:
        order = processor.resting()
        processor.tell(cancel(order), cancel(order))
        assert processor.said(order)[2:] == ["ReleaseReservation"]
        full = processor.resting()
        processor.tell(processor.settled(processor.matched(full, admin)))
        processor.tell(cancel(full))
        assert processor.state(full) == "FINISHING"
        processor.tell(about(OrderMatched, full))
        processor.tell(cancel(full))
        assert processor.state(full) == "COMPLETED"

    def test_while_settling_the_last_fill_wins(self, processor: Processor, admin: int) -> None:
        order = processor.resting()
        trade = processor.matched(order, admin)
        processor.tell(cancel(order))
        assert processor.state(order) == "CLOSING"
        processor.tell(processor.settled(trade))
        processor.tell(about(OrderMatched, order))
        assert (processor.state(order), processor.entry(order)) == ("COMPLETED", None)
        assert "ReleaseReservation" not in processor.said(order)

    def test_while_settling_a_part_the_rest_is_released_after_it(self, processor: Processor, admin: int) -> None:
        order = processor.resting()
        trade = processor.matched(order, admin, size="4")
        processor.tell(cancel(order))
        assert processor.match(order, admin).json()["code"] == "order-not-open"
        processor.tell(processor.settled(trade))
        assert processor.state(order) == "RELEASING"
        assert sorted(processor.said(order)[2:]) == ["MarkOrderPartiallyMatched", "ReleaseReservation"]

    def test_while_settling_a_bust_releases_everything(self, processor: Processor, admin: int) -> None:
        order = processor.resting()
        trade = processor.matched(order, admin)
        processor.tell(cancel(order))
        processor.tell(processor.failed(trade))
        assert (processor.state(order), processor.entry(order)) == ("RELEASING", (10, 0, 0, False))

    def test_of_an_order_that_waits_for_a_person_is_done(self, processor: Processor, admin: int) -> None:
        order = processor.resting()
        for _ in range(2):
            processor.tell(processor.failed(processor.matched(order, admin)))
        processor.tell(cancel(order))
        processor.tell(released(order))
        processor.tell(canceled(order))
        assert processor.state(order) == "CANCELED"


class TestSettling:
    def test_a_fill_moves_both_orders_and_the_trade(self, processor: Processor, admin: int) -> None:
        buy, sell = processor.resting("BUY", "10", "10"), processor.resting("SELL", "9", "4")
        answer = processor.post("/api/matching/crosses", admin, {"buy_order_id": buy, "sell_order_id": sell})
        [trade] = answer.json()["trades"]
        assert processor.entry(buy) == (6, 4, 0, True) and processor.entry(sell) == (0, 4, 0, False)
        processor.tell(processor.settled(trade["id"]))
        assert processor.entry(buy) == (6, 0, 4, True)
        assert (processor.state(buy), processor.state(sell), processor.state(trade["id"])) == (
            "RESTING",
            "FINISHING",
            "SETTLED",
        )
        assert [row["status"] for row in processor.trades(buy)] == ["SETTLED"]
        assert processor.said(buy)[2:] == ["MarkOrderPartiallyMatched"]
        assert processor.said(sell)[2:] == ["MarkOrderMatched"]

    def test_a_repeated_answer_has_no_effect(self, processor: Processor, admin: int) -> None:
        order = processor.resting()
        trade = processor.matched(order, admin, size="4")
        for _ in range(2):
            processor.tell(processor.settled(trade))
        processor.tell(processor.failed(trade))
        assert processor.entry(order) == (6, 0, 4, True)
        assert processor.said(order)[2:] == ["MarkOrderPartiallyMatched"]
        assert [row["status"] for row in processor.trades(order)] == ["SETTLED"]

    def test_a_bust_returns_the_remainders_and_a_second_one_calls_a_person(
        self, processor: Processor, admin: int
    ) -> None:
        order = processor.resting()
        processor.tell(processor.failed(processor.matched(order, admin)))
        assert (processor.state(order), processor.entry(order)) == ("RESTING", (10, 0, 0, True))
        trade = processor.matched(order, admin)
        processor.tell(processor.failed(trade))
        assert (processor.state(order), processor.entry(order)) == ("NEEDS_HUMAN", (10, 0, 0, False))
        assert processor.match(order, admin).json()["code"] == "order-not-open"
        saga = processor.request("GET", f"/api/sagas/{order}", admin).json()
        assert saga["reason"] == f"trade {trade}: RESERVATION_MISMATCH"
        assert [row["status"] for row in processor.trades(order)] == ["BUSTED", "BUSTED"]

    def test_a_message_that_cannot_be_changes_nothing_of_its_batch(self, processor: Processor) -> None:
        order, other = processor.resting(), processor.resting()
        with pytest.raises(InvalidTransition):
            processor.tell(cancel(order), released(other))
        assert (processor.state(order), processor.entry(order)) == ("RESTING", (10, 0, 0, True))


class TestBatches:
    @pytest.mark.parametrize("count", [10, 500])
    def test_take_the_same_number_of_statements_whatever_their_size(
        self, processor: Processor, count: int, statements: Callable[[], list[str]]
    ) -> None:
        openings = [processor.created("BUY" if n % 2 else "SELL") for n in range(count)]
        ids = [message.aggregate_id for message in openings]
        found = []
        for batch in (openings, [reserved(i) for i in ids], [about(OrderConfirmed, i) for i in ids]):
            processor.tell(*batch)
            found.append(len(statements()))
        processor.tell(*map(cancel, ids))
        found.append(len(statements()))
        # Beside the outbox: load, write; the last ones join the queue, and lock the book, load and change the queue.
        assert found == [2, 2, 3, 5]
        assert {processor.state(order_id) for order_id in ids} == {"RELEASING"}

    def test_of_settlements_too(self, processor: Processor, admin: int, statements: Callable[[], list[str]]) -> None:
        found = []
        for count in (5, 100):
            orders = [processor.resting("SELL", size="1") for _ in range(count)]
            trades = [processor.matched(order, admin) for order in orders]
            answers = [processor.settled(trade) for trade in trades]
            statements()
            processor.tell(*answers)
            found.append(len(statements()))
        assert found[0] == found[1] <= 9


@pytest.fixture
def statements(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What the handler executed since the last call, but for what Database does itself."""
    seen: list[str] = []
    handle = handler(processor.settings)

    def counted(unit: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
        with statements_of(unit.connection, seen):
            handle(unit, messages)

    def tell(*messages: Message[Any]) -> None:
        processor.database.run(lambda unit: counted(unit, messages))

    monkeypatch.setattr(processor, "tell", tell)

    def taken() -> list[str]:
        found = seen[:]
        seen.clear()
        return found

    return taken
