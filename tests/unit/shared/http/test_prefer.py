"""`Prefer: wait=N`."""

import pytest

from shared.http.prefer import parse_wait, preference_applied


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("wait=5", 5),
        ("WAIT = 5", 5),
        ('wait="5"', 5),
        ("respond-async, wait=3", 3),
        ("wait=3; foo=bar", 3),
        ("wait=10", 10),
        ("wait=11", 10),
        ("wait=999999999", 10),
        ("wait=0", 0),
        ("wait=-1", 0),
        ("wait=1.5", 0),
        ("wait=", 0),
        ("wait", 0),
        ("wait=٥", 0),
        ("wait=99999999999999999999", 0),
        ("wait=x, wait=5", 0),
        ("wait=2, wait=5", 2),
        ("return=minimal", 0),
    ],
)
def test_seconds(header: str | None, seconds: int) -> None:
    assert parse_wait(header) == seconds


def test_only_an_answer_that_waited_says_so() -> None:
    assert preference_applied(0) == {}
    assert preference_applied(4) == {"Preference-Applied": "wait=4"}
