"""Decimals, times and ids at the edge."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from shared.http.fields import (
    CustomerId,
    CustomerIdText,
    DecimalString,
    DecimalText,
    Limit,
    PositiveDecimal,
    Timestamp,
    VisibleId,
    text_field,
)

NOT_DECIMALS = [
    *("-1", "-0", "NaN", "nan", "Infinity", "-Infinity", "1e400", "1e-400", "1e3", "1E3", "0x1", "٣", "١٢", "１"),
    *("", " ", " 1", "1 ", "1\n", "+1", "1_000", "1,5", "1.", ".5", "01", "00", "1.2.3", "0." + "1" * 19, "1" * 19),
    *(1, 0, 1.5, True, False, None, [], {}, ["1"], Decimal(1), b"1", "1\x00", "½"),
]


@pytest.mark.parametrize("value", NOT_DECIMALS, ids=repr)
def test_what_is_no_decimal_string(value: Any) -> None:
    for kind in (DecimalString, PositiveDecimal):
        with pytest.raises(ValidationError) as refusal:
            TypeAdapter(kind).validate_python(value)
        assert refusal.value.errors()[0]["type"] == "brokage_decimal"


@pytest.mark.parametrize("value", ["0", "0.0", "0.000000000000000000"])
def test_zero_is_a_decimal_but_not_a_positive_one(value: str) -> None:
    assert TypeAdapter(DecimalString).validate_python(value) == 0
    with pytest.raises(ValidationError):
        TypeAdapter(PositiveDecimal).validate_python(value)


@given(st.from_regex(r"\A(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?\Z", alphabet=st.characters(codec="ascii")))
def test_every_decimal_of_the_form_is_read_exactly_and_written_plainly(text: str) -> None:
    class Answer(BaseModel):
        amount: DecimalText

    amount = TypeAdapter(DecimalString).validate_python(text)
    assert amount == Decimal(text)
    written = Answer(amount=amount).model_dump(mode="json")["amount"]
    assert Decimal(written) == amount
    assert "E" not in written
    assert not ("." in written and written.endswith("0"))


@pytest.mark.parametrize(
    "value",
    [
        *("2026-11-21", "2026-11-21T10:00:00", "2026-11-21 10:00:00Z", "10000-01-01T00:00:00Z", "1799-01-01T00:00:00Z"),
        *("2026-02-30T00:00:00Z", "2026-11-21T25:00:00Z", "2026-11-21T10:00:00+25:00", "2026-11-21T10:00:00.1234567Z"),
        *("٢٠٢٦-11-21T10:00:00Z", "", 1_700_000_000, None),
    ],
)
def test_what_is_no_time(value: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Timestamp).validate_python(value)


def test_times_become_utc() -> None:
    expected = datetime(2026, 11, 21, 7, 30, tzinfo=UTC)
    for text in ("2026-11-21T10:30:00+03:00", "2026-11-21t07:30:00z", "2026-11-21T07:30:00.000Z"):
        assert TypeAdapter(Timestamp).validate_python(text) == expected


@pytest.mark.parametrize("value", ["1", True, 0, -1, 2**63, 1.0, Decimal(1), None])
def test_customer_in_a_body_is_a_positive_bigint(value: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(CustomerId).validate_python(value)


@pytest.mark.parametrize(
    "value", ["0", "-1", "+1", "1_0", "01", "1.0", "１", "9" * 19, "99999999999999999999", "", " 1"]
)
def test_numbers_in_paths_and_queries_are_plain(value: str) -> None:
    for kind in (CustomerIdText, Limit):
        with pytest.raises(ValidationError):
            TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize("value", ["", "a b", "a\n", "ä", "x" * 65, "a\x7f", "\u202ea"])
def test_made_up_ids_are_visible_ascii(value: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(VisibleId).validate_python(value)


def test_text_refuses_what_cannot_be_seen() -> None:
    kind: Any = TypeAdapter(Annotated[str, *text_field(10)])
    assert kind.validate_python("Ayşe 👩‍🚀"[:6]) == "Ayşe 👩"
    for value in ("a\u202eb", "a\u200bb", "a\x00b", "a\nb", "x" * 11, ""):
        with pytest.raises(ValidationError):
            kind.validate_python(value)
