"""The checker is tested too: each of these bugs is planted into the running code, brought out by a small story, and must be named
by the invariant that is there to find it. The same story without the bug must be in perfect order."""

from collections.abc import Callable

import pytest

from tests.faults.planted.bugs import BUGS, Bug
from tests.faults.planted.town import Town

SCENARIOS = list(dict.fromkeys(bug.scenario for bug in BUGS))


def named(town: Town) -> list[tuple[int | str, str]]:
    """Every invariant that is broken, with what is said of it."""
    found = town.reconcile(town.patience)
    said: list[tuple[int | str, str]] = [
        (number, f"{finding.row}: {finding.reason}")
        for number, examined in found.items()
        for finding in examined.findings
    ]
    return [*said, *town.broken_promises()]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_named(town: Town, bug: Bug) -> None:
    with bug.plant(town):
        bug.scenario(town)
    # Without the bug, so that it cannot lead the checker astray as well.
    found = named(town)
    assert any(number == bug.invariant and bug.says in text for number, text in found), found


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_without_a_bug_the_same_story_is_in_order(town: Town, scenario: Callable[[Town], None]) -> None:
    scenario(town)
    assert named(town) == []


def test_there_are_enough_of_them() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 25
    assert {bug.invariant for bug in BUGS} >= set(range(1, 10))
