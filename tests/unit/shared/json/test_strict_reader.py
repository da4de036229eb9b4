"""The strict reader against what the design's list of bad inputs throws at it, and against generated documents."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import MalformedJson
from shared.json import dumps, loads

REFUSED = {
    "NaN": b'{"size": NaN}',
    "Infinity": b"[Infinity]",
    "negative infinity": b"[-Infinity]",
    "beyond a double": b'{"size": 1e400}',
    "below a double": b"[1e-400]",
    "exponent of an exponent's size": b"[1e99999999999999999999]",
    "integer of 5,000 digits": b"[" + b"9" * 5000 + b"]",
    "fraction of 5,000 digits": b"[0." + b"9" * 5000 + b"]",
    "duplicate keys": b'{"size": "1", "size": "2"}',
    "duplicate keys by escape": b'{"size": "1", "siz\\u0065": "2"}',
    "duplicate keys deep down": b'[{"a": {"b": 1, "b": 1}}]',
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "trailing bytes": b'{"a": 1} x',
    "second document": b"{}{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without mark": '{"a": 1}'.encode("utf-16-le"),
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "raw surrogate": b'{"a": "\xed\xa0\x80"}',
    "lone surrogate": b'{"a": "\\ud800"}',
    "lone surrogate in a key": b'{"\\udc00": 1}',
    "surrogates the wrong way round": b'["\\udc00\\ud800"]',
    "escaped NUL": b'{"a": "x\\u0000y"}',
    "raw NUL": b'{"a": "x\x00y"}',
    "raw line break in a string": b'{"a": "x\ny"}',
    "depth 33": b"[" * 33 + b"]" * 33,
    "depth 100,000": b"[" * 100_000 + b"]" * 100_000,
    "depth 100,000 of objects": b'{"a":' * 100_000,
    "truncated": b'{"a": "x',
    "single quotes": b"{'a': 1}",
    "trailing comma": b"[1,]",
    "comment": b"{} // x",
    "leading zero": b"[01]",
    "plus sign": b"[+1]",
    "other digits": "[١٢]".encode(),
    "empty": b"",
    "blank": b"  ",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes) -> None:
    with pytest.raises(MalformedJson) as refusal:
        loads(data)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("data", "document"),
    [
        (b"[" * 32 + b"]" * 32, None),
        (b'{"a": "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}', {"a": "[" * 40}),
        (b'{"a": "\\"{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{{"}', {"a": '"' + "{" * 41}),
        (b'["\\ud83d\\ude00"]', ["😀"]),
        (b"[1.50, -0, 1e3]", [Decimal("1.50"), 0, Decimal("1E+3")]),
        (b"[[], [], {}, [], [], {}]" + b" " * 10, [[], [], {}, [], [], {}]),
    ],
)
def test_accepted(data: bytes, document: Any) -> None:
    found = loads(data)
    assert document is None or found == document


def test_many_brackets_at_little_depth_are_fine() -> None:
    assert len(loads(b"[" + b"[],{}," * 1000 + b"0]")) == 2001


def test_numbers_are_never_floats() -> None:
    assert [type(value) for value in loads(b"[1, 1.0, 1e2]")] == [int, Decimal, Decimal]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=20,
)


@given(DOCUMENTS)
def test_reads_what_any_writer_wrote(document: Any) -> None:
    assert loads(json.dumps(document).encode()) == document
    assert loads(json.dumps(document, ensure_ascii=False).encode()) == document


@given(st.binary(max_size=200))
def test_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        loads(data)
    except MalformedJson:
        return


def test_amounts_are_written_as_strings() -> None:
    assert dumps({"amount": Decimal("1.5")}) == b'{"amount":"1.5"}'
