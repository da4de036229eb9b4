"""When a relay steps, on a clock that is set by hand."""

import math

from shared.messaging.pace import Pace

READER, TELLER = "asset_service", "auditor"


def pace(*, began: float = 100.0) -> Pace:
    """After an empty step."""
    found = Pace(sweep_seconds=1.0, linger_seconds=0.01, acknowledgement_seconds=0.02, telling_seconds=0.2)
    found.begin(began)
    return found


def test_the_first_step_is_due_at_once() -> None:
    untouched = Pace(sweep_seconds=1.0, linger_seconds=0.01, acknowledgement_seconds=0.02, telling_seconds=0.2)
    assert untouched.due() == -math.inf


class TestSmallSteps:
    def test_at_rest_only_the_sweep_is_due(self) -> None:
        assert pace().due() == 101.0

    def test_what_is_said_after_a_rest_goes_at_once(self) -> None:
        after = pace()
        after.rang()
        assert after.due() <= 100.01

    def test_under_load_the_next_one_waits_from_the_end_of_the_last(self) -> None:
        after = pace()
        after.rang()
        after.ended(100.05)
        assert after.due() == 100.06

    def test_an_acknowledgement_alone_waits_for_company(self) -> None:
        after = pace()
        after.acknowledged(100.5)
        after.acknowledged(100.51)
        assert after.due() == 100.52

    def test_an_acknowledgement_goes_with_what_is_said(self) -> None:
        after = pace()
        after.acknowledged(100.5)
        after.rang()
        assert after.due() <= 100.5

    def test_a_step_forgets_what_it_was_made_for(self) -> None:
        after = pace()
        after.acknowledged(100.5)
        after.rang()
        after.begin(100.5)
        assert after.due() == 101.5


class TestLargeSteps:
    def test_the_next_thing_goes_at_once(self) -> None:
        after = pace()
        after.published(READER, 20)
        after.rang()
        assert after.due() == 100.0

    def test_so_does_an_acknowledgement(self) -> None:
        after = pace()
        after.published(READER, 20)
        after.acknowledged(100.005)
        assert after.due() == 100.005


class TestTelling:
    def test_who_was_just_told_little_is_left_out_for_a_while(self) -> None:
        after = pace()
        after.published(TELLER, 1)
        assert after.begin(100.19) == [TELLER]
        assert after.begin(100.21) == []

    def test_the_step_for_those_who_were_left_out_comes_by_itself(self) -> None:
        after = pace()
        after.published(TELLER, 1)
        after.begin(100.1)
        assert after.due() == 100.2
        after.begin(100.2)
        assert after.due() == 101.2

    def test_who_is_behind_is_never_left_out(self) -> None:
        after = pace()
        after.published(TELLER, 300)
        after.published(TELLER, 300)
        after.published("notifier", 1)
        assert after.begin(100.01) == ["notifier"]

    def test_what_others_are_given_does_not_count(self) -> None:
        after = pace()
        after.published(READER, 1)
        assert after.begin(100.01) == []
