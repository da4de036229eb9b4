"""A crash between any two lines of the protocol, on real servers."""

from collections import Counter

import pytest
from small_service import Machine, Source

from shared import faults
from shared.faults import inject

LEASE_SECONDS = 0.15
TURNS_MAX = 300
# Those that this small service comes by; tests/faults has the others.
POINTS = sorted(
    name
    for name, point in faults.POINTS.items()
    if point.owner in {"inbox", "relay", "unit_of_work"}
    and name
    not in {
        "relay.refused",
        "relay.acknowledgements_taken",
        "outbox.leases_ended",
        "inbox.waited",
        "dead_letters.handled",
        "principals.applied",
    }
)


class Crash(BaseException):
    """Out of everything, as if the process had died here."""


def run_to_the_end(source: Source, valkey: str, crash_at: str, nth: int) -> int:
    """Work until all is acknowledged, crash once; how often the point was passed."""
    seen: Counter[str] = Counter()

    def injector(point: str) -> None:
        seen[point] += 1
        if point == crash_at and seen[point] == nth:
            raise Crash

    machine = Machine(source.url, valkey, lease_seconds=LEASE_SECONDS)
    with inject(injector):
        for _ in range(TURNS_MAX):
            try:
                machine.turn()
            except Crash:
                machine.close()
                machine = Machine(source.url, valkey, lease_seconds=LEASE_SECONDS)
            if source.drained():
                break
    machine.close()
    assert source.drained()
    return seen[crash_at]


class TestACrash:
    def test_there_are_points_everywhere(self) -> None:
        assert {point.split(".")[0] for point in POINTS} == {"inbox", "outbox", "relay", "unit_of_work"}

    @pytest.mark.parametrize("nth", [1, 3])
    @pytest.mark.parametrize("point", POINTS)
    def test_at_any_point_loses_and_doubles_nothing(self, source: Source, valkey: str, point: str, nth: int) -> None:
        source.say("a", "b", "a", "poison", "c")
        source.say("poison", "a", "c", "poison", "d", "b")
        source.say("d", "a", "poison")
        assert run_to_the_end(source, valkey, point, nth) >= 1, "the point was never passed"
        source.assert_all_once(but=["poison"])
        assert source.effects("poison") == source.effects("poison", "echo") == [1]
        assert [(status, version) for status, _, version in source.letters("poison")] == [
            ("PARKED", 2),
            ("HELD", 3),
            ("HELD", 4),
        ]
