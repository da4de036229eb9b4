"""The claim's decision on one lane."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.messaging.outbox import Candidate, PostgresOutbox, choose

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATIENCE = timedelta(seconds=60)


def waiting(id: str, events: int = 1) -> Candidate:
    return Candidate(id, events, None)


def sent(id: str, *, lease: float, ago: float = 20, deliveries: int = 1) -> Candidate:
    """Published `ago` seconds ago; the lease runs for another `lease` seconds."""
    return Candidate(id, 1, NOW + timedelta(seconds=lease), NOW - timedelta(seconds=ago), deliveries)


def choice(*candidates: Candidate, **options: Any) -> tuple[list[str], bool]:
    chosen, extend = choose(candidates, now=NOW, **{"events_max": 500, "patience": PATIENCE, **options})
    return [candidate.id for candidate in chosen], extend


class TestChoose:
    def test_nothing_waits(self) -> None:
        assert choice() == ([], False)

    def test_takes_what_waits_in_order_up_to_the_limit(self) -> None:
        assert choice(waiting("a", 300), waiting("b", 200), waiting("c")) == (["a", "b"], False)

    def test_does_not_skip_a_large_batch_for_a_small_one(self) -> None:
        assert choice(waiting("a", 300), waiting("b", 300), waiting("c")) == (["a"], False)

    def test_takes_one_batch_however_large(self) -> None:
        assert choice(waiting("a", 500), waiting("b"), events_max=100) == (["a"], False)

    def test_nothing_goes_while_something_is_outstanding(self) -> None:
        assert choice(sent("a", lease=1), waiting("b")) == ([], False)
        assert choice(sent("a", lease=-1), sent("b", lease=1), waiting("c")) == ([], False)

    def test_an_expired_lease_sends_the_same_again_and_alone(self) -> None:
        assert choice(sent("a", lease=0), sent("b", lease=0), waiting("c")) == (["a", "b"], False)

    def test_an_unread_queue_extends_the_lease(self) -> None:
        assert choice(sent("a", lease=-1), waiting("b"), unread=True) == (["a"], True)

    def test_what_is_in_no_queue_is_not_waited_for(self) -> None:
        assert choice(Candidate("a", 1, NOW, None, 2), waiting("b"), unread=True) == (["a"], False)

    def test_patience_ends(self) -> None:
        assert choice(sent("a", lease=-1, ago=60), unread=True) == (["a"], False)

    def test_patience_doubles_with_each_delivery_up_to_a_limit(self) -> None:
        assert choice(sent("a", lease=-1, ago=239, deliveries=3), unread=True) == (["a"], True)
        assert choice(sent("a", lease=-1, ago=240, deliveries=3), unread=True) == (["a"], False)
        assert choice(sent("a", lease=-1, ago=60 * 64, deliveries=1000), unread=True) == (["a"], False)

    def test_an_empty_queue_needs_no_patience(self) -> None:
        assert choice(sent("a", lease=-1, ago=16, deliveries=9)) == (["a"], False)


class TestDecide:
    def test_a_serial_reader_gets_more_events_at_once_than_others(self) -> None:
        store = PostgresOutbox(None, lease_seconds=15, events_max=10)  # type: ignore[arg-type]
        lanes = {
            (reader, 0): [waiting(f"{reader} {number}", 5) for number in range(20)]
            for reader in ("auditor", "notifier")
        }
        send, extend = store._decide(lanes, NOW, lambda destination: 0)
        assert Counter(id.split()[0] for id in send) == {"auditor": 4, "notifier": 2}
        assert extend == []
