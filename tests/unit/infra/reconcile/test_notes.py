"""What a pass over the documents remembers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from infra.reconcile.notes import Notes

NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def notes() -> Iterator[Notes]:
    with Notes(facts=["TradeSettled"], told=["OrderMatched"], told_since=NOW - timedelta(days=1)) as found:
        yield found


def record(event_id: str, event_type: str = "OrderMatched", **fields: Any) -> dict[str, Any]:
    metadata = {"event_type": event_type, "customer_id": fields.pop("customer_id", 7), "version": 1}
    made = {"_id": event_id, "event_id": event_id, "timestamp": NOW, "entity_type": "order", "entity_id": "o"}
    return {**made, "seq": 1, "metadata": metadata, **fields}


def misshapen_of(notes: Notes, *records: dict[str, Any]) -> list[str]:
    named: list[str] = []
    passed = list(notes.of_trail(iter(records), lambda record: named.append(record["_id"])))
    assert passed == list(records)
    return named


def told(*pairs: tuple[str, int]) -> list[dict[str, Any]]:
    return [{"event_id": event_id, "customer_id": customer_id} for event_id, customer_id in pairs]


class TestTrail:
    def test_an_event_without_record_is_unrecorded(self, notes: Notes) -> None:
        assert misshapen_of(notes, record("a"), record("b")) == []
        assert notes.unrecorded(["a", "b", "c"]) == {"c"}

    def test_records_are_counted_by_what_they_are_about(self, notes: Notes) -> None:
        settled = {"event_type": "TradeSettled", "entity_type": "trade"}
        about = [
            ("1", "t1", settled),
            ("2", "t1", settled),
            ("3", "t2", settled),
            ("4", "t3", settled | {"entity_type": "order"}),
        ]
        misshapen_of(notes, *(record(event_id, entity_id=entity_id, **fields) for event_id, entity_id, fields in about))
        assert notes.times("trade", ["TradeSettled"], ["t1", "t2", "t3", "t4"]) == {"t1": 2, "t2": 1}
        assert notes.times("trade", ["TradeBusted"], ["t1"]) == {}

    @pytest.mark.parametrize("number", [1, 1_500])
    def test_one_that_is_not_shaped_like_a_record_is_named_and_the_others_are_noted(
        self, notes: Notes, number: int
    ) -> None:
        good = [record(f"good-{each}") for each in range(number)]
        bad = [record("text", timestamp="2026-11-28"), record("number", entity_id=5), record("bare", metadata=None)]
        assert misshapen_of(notes, *good[: number // 2], *bad, *good[number // 2 :]) == ["text", "number", "bare"]
        assert notes.unrecorded([each["_id"] for each in (*good, *bad)]) == {"text", "number", "bare"}


class TestNotifications:
    def test_who_was_told_once_is_in_order(self, notes: Notes) -> None:
        misshapen_of(notes, record("a"))
        notes.of_notifications(told(("a", 7)))
        assert list(notes.not_told_once()) == []
        assert notes.to_tell() == 1

    @pytest.mark.parametrize(
        "pairs", [[], [("a", 8)], [("b", 7)], [("a", 7), ("a", 7)]], ids=["never", "another", "of another", "twice"]
    )
    def test_who_was_told_otherwise_is_not(self, notes: Notes, pairs: list[tuple[str, int]]) -> None:
        misshapen_of(notes, record("a"))
        notes.of_notifications(told(*pairs))
        assert list(notes.not_told_once()) == ["a"]

    @pytest.mark.parametrize(
        "fields",
        [{"customer_id": None}, {"event_type": "OrderCreated"}, {"timestamp": NOW - timedelta(days=2)}],
        ids=["nobody's", "no news", "too old"],
    )
    def test_of_some_events_nobody_is_told(self, notes: Notes, fields: dict[str, Any]) -> None:
        misshapen_of(notes, record("a", **fields))
        assert (list(notes.not_told_once()), notes.to_tell()) == ([], 0)
