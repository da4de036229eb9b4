"""What was refused is told: at once, then once a minute, and never forgotten."""

import threading

from shared.contracts.system import MessageRefused
from shared.messaging.refusals import Refusals, message_of


class Trail:
    def __init__(self) -> None:
        self.records: list[tuple[str, str, int]] = []
        self.away = False

    def record(self, refused: MessageRefused) -> None:
        if self.away:
            raise ConnectionError
        self.records.append((refused.queue, refused.kind, refused.count))


def refusals_of(trail: Trail, *queues: str) -> Refusals:
    refusals = Refusals("tests", pause_seconds=60.0)
    for queue in queues:
        refusals.tell(queue, trail.record)
    return refusals


def test_the_first_is_told_at_once_and_a_flood_once_a_minute() -> None:
    trail = Trail()
    refusals = refusals_of(trail, "a")
    refusals.note("a", "delivery")
    refusals.tell_waiting(100.0)
    assert trail.records == [("a", "delivery", 1)]
    for moment in range(100, 160):
        for _ in range(50):
            refusals.note("a", "delivery")
        refusals.tell_waiting(float(moment))
    assert trail.records == [("a", "delivery", 1)]
    refusals.tell_waiting(160.0)
    assert trail.records == [("a", "delivery", 1), ("a", "delivery", 3_000)]
    refusals.tell_waiting(1_000.0)
    assert len(trail.records) == 2, "nothing was refused since"


def test_one_queue_and_kind_does_not_hide_another() -> None:
    trail = Trail()
    refusals = refusals_of(trail, "a", "b")
    for queue, kind in (("a", "delivery"), ("a", "acknowledgement"), ("b", "delivery")):
        refusals.note(queue, kind)
        refusals.tell_waiting(100.0)
    assert len(trail.records) == 3


def test_what_could_not_be_put_on_record_is_tried_again() -> None:
    trail = Trail()
    refusals = refusals_of(trail, "a")
    trail.away = True
    refusals.note("a", "delivery")
    refusals.tell_waiting(100.0)
    refusals.note("a", "delivery")
    trail.away = False
    refusals.tell_waiting(101.0)
    assert trail.records == [("a", "delivery", 2)]


def test_the_loop_tells_by_itself_and_at_its_end_what_still_waits() -> None:
    trail = Trail()
    refusals = refusals_of(trail, "a")
    stop, told = threading.Event(), threading.Event()
    refusals.tell("a", lambda refused: (trail.record(refused), told.set()))
    thread = threading.Thread(target=refusals.run, args=(stop,), daemon=True)
    thread.start()
    refusals.note("a", "delivery")
    assert told.wait(5)
    refusals.note("a", "delivery")
    stop.set()
    thread.join(5)
    assert trail.records == [("a", "delivery", 1), ("a", "delivery", 1)]


def test_who_did_it_is_not_known() -> None:
    message = message_of(MessageRefused(queue="notifier", kind="delivery", count=3))
    assert (message.actor.id, message.actor.role) == (None, "UNKNOWN")
    assert (message.aggregate_type, message.aggregate_id) == ("message_queue", "notifier")
