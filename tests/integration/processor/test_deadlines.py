"""Answers that do not come: again once the command has arrived, a person after three times, a release for ever."""

from typing import Any

import pytest

from shared.contracts.orders import OrderConfirmed
from shared.ids import new_id
from tests.integration.processor.conftest import Processor, about, cancel, released, reserved


@pytest.fixture
def late(processor: Processor) -> float:
    """Seconds after which an answer is overdue."""
    return processor.settings.saga_answer_seconds + 1


def opened(processor: Processor) -> str:
    opening = processor.created()
    processor.tell(opening)
    return opening.aggregate_id


def give_up(processor: Processor, late: float) -> None:
    """Let the answer be overdue until a person is asked."""
    for _ in range(processor.settings.saga_resends_max + 1):
        processor.acknowledge()
        processor.pass_time(late)
        processor.sweep()


def saga(processor: Processor, saga_id: str, admin: int) -> dict[str, Any]:
    answer = processor.request("GET", f"/api/sagas/{saga_id}", admin)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


class TestOverdueAnswers:
    def test_wait_for_a_slow_queue_for_ever(self, processor: Processor, late: float) -> None:
        order = opened(processor)
        processor.pass_time(10 * late)
        assert processor.sweep() == 0
        processor.acknowledge()
        assert processor.sweep() == 0, "the time runs from the acknowledgement"
        processor.pass_time(late)
        assert processor.sweep() == 1
        assert processor.said(order) == ["ReserveAsset", "ReserveAsset"]

    def test_are_asked_for_again_once_per_time(self, processor: Processor, late: float) -> None:
        order = opened(processor)
        for times in range(1, processor.settings.saga_resends_max + 1):
            processor.acknowledge()
            processor.pass_time(late)
            assert [processor.sweep(), processor.sweep()] == [1, 0]
            assert processor.said(order).count("ReserveAsset") == 1 + times

    def test_become_a_person_s_after_three_times(self, processor: Processor, late: float, admin: int) -> None:
        order = opened(processor)
        give_up(processor, late)
        found = saga(processor, order, admin)
        assert (found["current_state"], found["resume_state"]) == ("NEEDS_HUMAN", "RESERVING")
        assert found["reason"] == "no answer in RESERVING"
        assert found["deadline_at"] is None
        assert processor.said(order).count("ReserveAsset") == 4
        listed = processor.request("GET", "/api/sagas?state=NEEDS_HUMAN", admin).json()["data"]
        assert order in [row["id"] for row in listed]
        processor.pass_time(10 * late)
        assert processor.sweep() == 0

    def test_of_a_trade_are_asked_for_with_its_terms(self, processor: Processor, late: float, admin: int) -> None:
        trade = processor.matched(processor.resting(), admin)
        processor.acknowledge()
        processor.pass_time(late)
        assert processor.sweep() == 1
        assert processor.said(trade) == ["SettleTrade", "SettleTrade"]
        payloads = processor.query(
            "SELECT m->'payload' FROM outbox_events, jsonb_array_elements(payload::jsonb) AS m"
            " WHERE m->>'aggregate_id' = %s AND destination = 'asset_service'",
            trade,
        )
        assert payloads[0] == payloads[1]
        give_up(processor, late)
        assert processor.state(trade) == "NEEDS_HUMAN"
        processor.tell(processor.settled(trade))
        assert processor.state(trade) == "SETTLED", "the answer came after all"

    def test_of_a_release_are_asked_for_for_ever(self, processor: Processor, late: float) -> None:
        order = processor.resting()
        processor.tell(cancel(order))
        for _ in range(2 * processor.settings.saga_resends_max):
            processor.acknowledge()
            processor.pass_time(late)
            assert processor.sweep() == 1
        assert processor.state(order) == "RELEASING"
        assert processor.said(order).count("ReleaseReservation") == 7
        processor.tell(released(order))
        assert processor.state(order) == "CANCELING"

    def test_an_answer_starts_the_count_anew(self, processor: Processor, late: float, admin: int) -> None:
        order = opened(processor)
        for _ in range(3):
            processor.acknowledge()
            processor.pass_time(late)
            processor.sweep()
        assert saga(processor, order, admin)["retry_count"] == 3
        processor.tell(reserved(order))
        assert saga(processor, order, admin)["retry_count"] == 0
        processor.acknowledge()
        processor.pass_time(late)
        assert processor.sweep() == 1
        assert processor.said(order, "order_service") == ["ConfirmOrder", "ConfirmOrder"]

    def test_a_resting_order_awaits_nothing(self, processor: Processor, late: float) -> None:
        processor.resting()
        processor.acknowledge()
        processor.pass_time(100 * late)
        assert processor.sweep() == 0

    def test_two_sweepers_at_once_send_each_command_once(self, processor: Processor, late: float) -> None:
        orders = [opened(processor) for _ in range(20)]
        processor.acknowledge()
        processor.pass_time(late)
        assert sum(processor.together(*[processor.sweep] * 3)) == 20
        assert {tuple(processor.said(order)) for order in orders} == {("ReserveAsset", "ReserveAsset")}


class TestRetry:
    def retry(self, processor: Processor, saga_id: str, admin: int) -> Any:
        return processor.request("POST", f"/api/sagas/{saga_id}/retry", admin)

    def test_sends_again_what_it_awaits(self, processor: Processor, late: float, admin: int) -> None:
        order = opened(processor)
        give_up(processor, late)
        answer = self.retry(processor, order, admin)
        assert (answer.status_code, answer.json()["current_state"]) == (202, "RESERVING")
        assert processor.said(order).count("ReserveAsset") == 5
        assert processor.said(order, "auditor")[-1] == "AdminActed"
        processor.tell(reserved(order))
        processor.tell(about(OrderConfirmed, order))
        assert processor.state(order) == "RESTING"

    def test_gives_a_trade_another_chance(self, processor: Processor, late: float, admin: int) -> None:
        order = processor.resting()
        trade = processor.matched(order, admin)
        give_up(processor, late)
        assert self.retry(processor, trade, admin).json()["current_state"] == "SETTLING"
        processor.tell(processor.settled(trade))
        assert (processor.state(trade), processor.state(order)) == ("SETTLED", "FINISHING")

    def test_puts_a_twice_busted_order_back_with_a_clean_count(self, processor: Processor, admin: int) -> None:
        order = processor.resting()
        for _ in range(2):
            processor.tell(processor.failed(processor.matched(order, admin)))
        assert self.retry(processor, order, admin).json()["current_state"] == "RESTING"
        assert processor.entry(order) == (10, 0, 0, True)
        processor.tell(processor.failed(processor.matched(order, admin)))
        assert processor.state(order) == "RESTING"
        processor.tell(processor.settled(processor.matched(order, admin)))
        assert processor.state(order) == "FINISHING"

    def test_is_refused_for_one_that_is_not_stuck(self, processor: Processor, admin: int) -> None:
        answer = self.retry(processor, processor.resting(), admin)
        assert (answer.status_code, answer.json()["code"]) == (409, "saga-not-stuck")
        assert self.retry(processor, new_id(), admin).status_code == 404
        assert self.retry(processor, "nonsense", admin).status_code == 404

    def test_twice_at_once_it_goes_on_once(self, processor: Processor, late: float, admin: int) -> None:
        order = opened(processor)
        give_up(processor, late)
        answers = processor.together(*[lambda: self.retry(processor, order, admin)] * 3)
        assert sorted(answer.status_code for answer in answers) == [202, 409, 409]
        assert processor.said(order).count("ReserveAsset") == 5
