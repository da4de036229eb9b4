"""When a suspect is broken, and when it only moves."""

import time
from collections.abc import Callable, Collection, Iterable, Sequence

from infra.reconcile.check import Check, Examined
from infra.reconcile.report import document, lines
from infra.reconcile.rest import Suspect, at_rest, nothing
from infra.reconcile.settings import Settings
from infra.reconcile.streams import chunks, side_by_side

GRACE = Settings(grace_seconds=0.05)


def suspect(key: str, evidence: str = "") -> Suspect:
    return Suspect(key, f"order {key}", "it is wrong", evidence)


def judge(
    suspects: Iterable[Suspect],
    recheck: Callable[[Sequence[str]], Iterable[Suspect]],
    on_its_way: Callable[[Sequence[str]], Collection[str]] = nothing,
) -> Examined:
    examined = Examined(limit=20)
    at_rest(suspects, examined, GRACE, recheck=recheck, on_its_way=on_its_way)
    return examined


def same(keys: Sequence[str]) -> Iterable[Suspect]:
    return [suspect(key) for key in keys]


class TestAtRest:
    def test_without_suspects_nothing_waits(self) -> None:
        started = time.monotonic()
        assert judge([], same).broken == 0
        assert time.monotonic() - started < GRACE.grace_seconds

    def test_what_stands_unchanged_for_the_grace_is_broken(self) -> None:
        started = time.monotonic()
        examined = judge([suspect("a"), suspect("b")], same)
        assert [finding.row for finding in examined.findings] == ["order a", "order b"]
        assert time.monotonic() - started >= GRACE.grace_seconds

    def test_what_vanishes_is_not(self) -> None:
        examined = judge([suspect("a"), suspect("b")], lambda keys: [suspect("b")])
        assert [finding.row for finding in examined.findings] == ["order b"]

    def test_what_keeps_moving_is_not_judged(self) -> None:
        examined = judge([suspect("a")], lambda keys: [suspect("a", str(time.monotonic()))])
        assert (examined.broken, examined.moving) == (0, 1)

    def test_what_moves_once_has_the_whole_grace_again(self) -> None:
        started = time.monotonic()
        examined = judge([suspect("a", "before")], lambda keys: [suspect("a", "after")])
        assert examined.broken == 1
        assert time.monotonic() - started >= GRACE.grace_seconds * 1.2

    def test_what_a_message_may_still_mend_is_not_judged(self) -> None:
        examined = judge([suspect("a"), suspect("b")], same, lambda keys: {"a"})
        assert ([finding.row for finding in examined.findings], examined.moving) == (["order b"], 1)

    def test_a_row_that_a_message_mended_while_it_was_looked_for_is_not_broken(self) -> None:
        mended: list[str] = []

        def consume(keys: Sequence[str]) -> Collection[str]:
            mended.extend(keys)
            return ()

        examined = judge([suspect("a")], lambda keys: [suspect(key) for key in keys if key not in mended], consume)
        assert (examined.broken, examined.moving) == (0, 0)


class TestStreams:
    def test_side_by_side_has_every_key_once_with_the_rows_of_each(self) -> None:
        left = [{"key": "a", "n": 1}, {"key": "a", "n": 2}, {"key": "c", "n": 3}]
        right = [{"key": "b", "n": 4}, {"key": "c", "n": 5}]
        found = [(key, [[row["n"] for row in rows] for rows in each]) for key, each in side_by_side(left, right)]
        assert found == [("a", [[1, 2], []]), ("b", [[], [4]]), ("c", [[3], [5]])]

    def test_side_by_side_of_nothing_is_nothing(self) -> None:
        assert list(side_by_side([], [])) == []

    def test_chunks_have_at_most_that_many(self) -> None:
        assert list(chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]


class TestReport:
    check = Check(3, "it adds up", lambda stores, examined: None)

    def test_a_clean_check_is_a_line(self) -> None:
        assert list(lines(self.check, Examined(20, rows=12345))) == [" 3  ok           12,345 rows  it adds up"]

    def test_a_broken_one_names_its_first_rows_and_counts_the_others(self) -> None:
        examined = Examined(2, rows=10, moving=4)
        for number in range(5):
            examined.found(f"order {number}", "it is wrong")
        assert list(lines(self.check, examined)) == [
            " 3  BROKEN           10 rows  it adds up",
            "      order 0: it is wrong",
            "      order 1: it is wrong",
            "      and 3 more",
            "      4 rows never came to rest and were not judged",
        ]
        said = document(self.check, examined)
        assert (said["valid"], said["broken"], len(said["findings"]), said["moving"]) == (False, 5, 2, 4)
