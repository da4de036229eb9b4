"""The hash chain: what it covers, and that every kind of tampering is named where it begins."""

import itertools
import random
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from bson.binary import Binary
from bson.int64 import Int64

from auditor.chain import GENESIS, START, FirstBad, Head, Tampering, canonical, content_of, digest, link, verify

Record = dict[str, Any]
MOMENT = datetime(2026, 11, 21, 10, 0, 0, 123000, tzinfo=UTC)


def create_content(number: int) -> Record:
    return {
        "event_id": f"event-{number}",
        "timestamp": MOMENT,
        "action": "OrderCreated",
        "new_value": {"size": str(number), "note": "ğüş"},
        "old_value": None,
    }


@pytest.fixture
def chain() -> list[Record]:
    return link(START, [create_content(number) for number in range(1, 11)])[0]


def head_of(chain: list[Record]) -> Head:
    return Head(chain[-1]["seq"], chain[-1]["hash"])


def first_bad(chain: list[Record], head: Head | None) -> FirstBad | None:
    """As the store gives them: in ascending order of `seq`."""
    found = verify(sorted(chain, key=lambda record: record["seq"]), head)
    assert found.valid is (found.first_bad is None)
    return found.first_bad


def rehash(chain: list[Record], start: int) -> None:
    """What an attacker who knows the formula does from index `start` on."""
    for index in range(start, len(chain)):
        chain[index]["prev_hash"] = chain[index - 1]["hash"] if index else GENESIS
        chain[index]["hash"] = digest(chain[index]["prev_hash"], content_of(chain[index]))


class TestLink:
    def test_numbers_follow_without_gaps_and_each_record_names_the_hash_before_it(self, chain: list[Record]) -> None:
        assert [record["seq"] for record in chain] == list(range(1, 11))
        assert chain[0]["prev_hash"] == GENESIS
        assert all(after["prev_hash"] == before["hash"] for before, after in itertools.pairwise(chain))

    def test_a_chain_made_in_two_parts_is_the_same(self, chain: list[Record]) -> None:
        contents = [create_content(number) for number in range(1, 11)]
        first, head = link(START, contents[:4])
        second, end = link(head, contents[4:])
        assert first + second == chain
        assert end == head_of(chain)

    def test_the_hash_does_not_depend_on_the_order_of_fields(self) -> None:
        content = create_content(1)
        assert canonical(content) == canonical(dict(reversed(content.items())))

    @pytest.mark.parametrize(
        "value",
        [
            *("", "ğüş", "\u2028\U0001f600\x7f", "\x00\x1f\b\t\n\f\r", '"\\/', "1e16", "null"),
            *(0, -1, 2**63 - 1, -(2**63), Int64(2**40), True, False, None),
            *([], {}, [None, [True, {"": []}]], {"z": 1, "Z": 2, "zz": 3, "ş": 4, "\U0001f600": 5, "\uffff": 6, "": 7}),
        ],
    )
    def test_what_is_written_is_hashed_as_it_will_be_when_it_is_read(self, value: Any) -> None:
        for moment in (MOMENT, MOMENT.replace(microsecond=0), MOMENT.astimezone(timezone(timedelta(hours=3)))):
            [record], _ = link(START, [{**create_content(1), "timestamp": moment, "new_value": value}])
            assert record["hash"] == digest(record["prev_hash"], content_of(record))

    def test_what_json_cannot_hold_is_refused(self) -> None:
        with pytest.raises(TypeError):
            link(START, [{**create_content(1), "new_value": {"size": object()}}])
        with pytest.raises(TypeError):
            canonical({"size": object()})


class TestVerify:
    def test_an_untouched_chain_is_valid(self, chain: list[Record]) -> None:
        found = verify(chain, head_of(chain))
        assert (found.valid, found.records, found.head) == (True, 10, head_of(chain))

    def test_an_empty_trail_is_valid(self) -> None:
        assert verify([], None).valid
        assert verify([], START).valid

    def test_records_beyond_the_noted_head_are_examined_too(self, chain: list[Record]) -> None:
        noted = Head(chain[6]["seq"], chain[6]["hash"])
        assert first_bad(chain, noted) is None
        chain[8]["action"] = "Nothing"
        assert first_bad(chain, noted) == FirstBad(9, Tampering.CHANGED)

    @pytest.mark.parametrize("index", range(10))
    def test_a_changed_character_is_named(self, chain: list[Record], index: int) -> None:
        chain[index]["new_value"]["size"] += "0"
        assert first_bad(chain, head_of(chain)) == FirstBad(index + 1, Tampering.CHANGED)

    @pytest.mark.parametrize(
        "change",
        [
            {"timestamp": MOMENT.replace(second=1)},
            {"timestamp": "2026-11-21T10:00:00.123Z"},
            {"old_value": {}},
            {"hash": "f" * 64},
            {"added": True},
            {"_id": "other"},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_any_changed_or_added_field_is_named(self, chain: list[Record], change: Record) -> None:
        head = head_of(chain)
        chain[4].update(change)
        assert first_bad(chain, head) == FirstBad(5, Tampering.CHANGED)

    @pytest.mark.parametrize(
        ("written", "stored"),
        [
            (None, float("nan")),
            (None, float("-inf")),
            ("aGVsbG8=", b"hello"),
            ("aGVsbG8=", Binary(b"hello", 5)),
            ("2026-11-21T10:00:00Z", MOMENT.replace(microsecond=0)),
            ("00000000-0000-0000-0000-000000000005", UUID(int=5)),
        ],
        ids=lambda value: type(value).__name__,
    )
    @pytest.mark.parametrize(
        "within", [lambda value: value, lambda value: {"a": [1, {"b": value}]}], ids=["bare", "deep"]
    )
    def test_a_value_of_another_type_that_some_json_writes_alike_is_named(
        self, written: Any, stored: Any, within: Callable[[Any], Any]
    ) -> None:
        chain, head = link(START, [{**create_content(1), "new_value": within(written)}, create_content(2)])
        assert first_bad(chain, head) is None
        chain[0]["new_value"] = within(stored)
        assert first_bad(chain, head) == FirstBad(1, Tampering.CHANGED)

    def test_a_number_that_no_store_could_hold_is_named(self, chain: list[Record]) -> None:
        chain[4]["new_value"] = {"size": 2**70}  # of an archive: JSON can
        assert first_bad(chain, head_of(chain)) == FirstBad(5, Tampering.CHANGED)

    def test_a_removed_field_is_named(self, chain: list[Record]) -> None:
        del chain[4]["old_value"]
        assert first_bad(chain, head_of(chain)) == FirstBad(5, Tampering.CHANGED)

    @pytest.mark.parametrize("index", range(9))
    def test_a_deleted_record_is_missing(self, chain: list[Record], index: int) -> None:
        head = head_of(chain)
        del chain[index]
        assert first_bad(chain, head) == FirstBad(index + 1, Tampering.MISSING)

    @pytest.mark.parametrize("index", range(8))
    def test_a_deleted_record_is_missing_even_if_the_rest_is_renumbered(self, chain: list[Record], index: int) -> None:
        head = head_of(chain)
        del chain[index]
        for record in chain[index:]:
            record["seq"] -= 1
        assert first_bad(chain, head) == FirstBad(index + 1, Tampering.MISSING)

    @pytest.mark.parametrize("index", range(9))
    def test_two_records_in_each_others_place_are_reordered(self, chain: list[Record], index: int) -> None:
        chain[index]["seq"], chain[index + 1]["seq"] = chain[index + 1]["seq"], chain[index]["seq"]
        bad = first_bad(chain, Head(10, chain[9]["hash"]))
        assert bad == FirstBad(index + 1, Tampering.REORDERED)

    @pytest.mark.parametrize("index", range(1, 9))
    def test_a_forged_record_in_between_is_inserted(self, chain: list[Record], index: int) -> None:
        """With a right hash of its own, and all later ones renumbered."""
        head = head_of(chain)
        before = Head(chain[index - 1]["seq"], chain[index - 1]["hash"])
        [forged], _ = link(before, [create_content(99)])
        for record in chain[index:]:
            record["seq"] += 1
        assert first_bad([*chain, forged], head) == FirstBad(index + 1, Tampering.INSERTED)

    def test_a_forged_record_without_a_right_hash_is_inserted(self, chain: list[Record]) -> None:
        forged = {**deepcopy(chain[4]), "_id": "x", "event_id": "x"}
        for record in chain[4:]:
            record["seq"] += 1
        assert first_bad([*chain, forged], head_of(chain)) == FirstBad(5, Tampering.INSERTED)

    @pytest.mark.parametrize("seq", [0, -3, 4.5, 5])
    def test_a_record_with_a_number_of_no_place_is_inserted(self, chain: list[Record], seq: float) -> None:
        forged = {**deepcopy(chain[4]), "_id": "x", "event_id": "x", "seq": seq}
        bad = first_bad([*chain, forged], head_of(chain))
        assert bad is not None
        assert bad.reason is Tampering.INSERTED

    def test_a_record_made_anew_is_changed(self, chain: list[Record]) -> None:
        chain[4]["action"] = "Nothing"
        chain[4]["hash"] = digest(chain[4]["prev_hash"], content_of(chain[4]))
        assert first_bad(chain, head_of(chain)) == FirstBad(5, Tampering.CHANGED)

    def test_a_cut_tail_is_named_by_the_noted_head(self, chain: list[Record]) -> None:
        assert first_bad(chain[:7], head_of(chain)) == FirstBad(8, Tampering.TAIL_CUT)
        assert first_bad([], head_of(chain)) == FirstBad(1, Tampering.TAIL_CUT)

    def test_a_whole_chain_made_anew_does_not_fit_the_noted_head(self, chain: list[Record]) -> None:
        head = head_of(chain)
        chain[2]["action"] = "Nothing"
        rehash(chain, 2)
        assert first_bad(chain, head) == FirstBad(10, Tampering.REWRITTEN)

    def test_only_three_records_are_held_at_a_time(self, chain: list[Record]) -> None:
        """`verify` reads one record ahead and no more."""
        given: list[int] = []

        def stream() -> Any:
            for record in chain:
                given.append(record["seq"])
                yield record

        chain[2]["action"] = "Nothing"
        verify(stream(), None)
        assert given == [1, 2, 3, 4]


class TestRandomTampering:
    """600 cases: a random kind of tampering at a random place of a chain of random length."""

    @pytest.mark.parametrize("kind", ["flip", "delete", "close the gap", "reorder", "insert", "cut"])
    def test_each_is_found_at_its_place(self, kind: str) -> None:
        rng = random.Random(kind)
        for _ in range(100):
            length = rng.randint(4, 40)
            chain, head = link(START, [create_content(number) for number in range(length)])
            # A gap closed before the very last record looks like a change of that one: found all the same.
            place = rng.randint(1, length - 3)
            expected = tamper(chain, kind, place, rng)
            assert first_bad(chain, head) == FirstBad(place + 1, expected), (kind, length, place)


def tamper(chain: list[Record], kind: str, place: int, rng: random.Random) -> Tampering:
    """Tamper with `chain` at index `place`; what it must be called."""
    if kind == "flip":
        field = rng.choice(["action", "hash", "correlation"])
        text = chain[place].get(field, "x")
        at = rng.randrange(len(text))
        chain[place][field] = text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]
        return Tampering.CHANGED
    if kind in ("delete", "close the gap"):
        del chain[place]
        for record in chain[place:] if kind == "close the gap" else []:
            record["seq"] -= 1
        return Tampering.MISSING
    if kind == "reorder":
        chain[place]["seq"], chain[place + 1]["seq"] = chain[place + 1]["seq"], chain[place]["seq"]
        return Tampering.REORDERED
    if kind == "insert":
        before = chain[place - 1]
        [forged], _ = link(Head(before["seq"], before["hash"]), [create_content(999)])
        for record in chain[place:]:
            record["seq"] += 1
        chain.append(rng.choice([forged, {**before, "seq": place + 1, "_id": "x", "event_id": "x"}]))
        return Tampering.INSERTED
    del chain[place:]
    return Tampering.TAIL_CUT
