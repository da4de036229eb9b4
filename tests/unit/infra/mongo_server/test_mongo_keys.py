"""The order-preserving encoding: one order for indexes, filters and sorts."""

import math
from datetime import datetime
from typing import Any

import pytest
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from infra.mongo_server.errors import CommandError
from infra.mongo_server.keys import descending, encode, encode_each

int64 = st.integers(-(2**63), 2**63 - 1)
numbers = st.one_of(int64, st.floats(allow_nan=False), st.integers(2**53 - 3, 2**53 + 3))
texts = st.text(st.characters(codec="utf-8"), max_size=8)
dates = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(  # noqa: DTZ001 - the server's dates are naive UTC
    lambda moment: moment.replace(microsecond=0)
)


class TestEncode:
    @given(numbers, numbers)
    def test_numbers_order_by_value_whatever_their_width(self, left: float, right: float) -> None:
        assert (encode(left) < encode(right)) is (left < right)
        assert (encode(left) == encode(right)) is (left == right)

    @given(texts, texts)
    def test_strings_order_by_their_utf8(self, left: str, right: str) -> None:
        assert (encode(left) < encode(right)) is (left.encode() < right.encode())

    @given(dates, dates)
    def test_dates_order_by_time(self, left: datetime, right: datetime) -> None:
        assert (encode(left) < encode(right)) is (left < right)

    @given(st.lists(st.tuples(texts, int64), min_size=2, max_size=8))
    def test_concatenated_keys_order_field_by_field(self, rows: list[tuple[str, int]]) -> None:
        assert sorted(rows, key=lambda row: encode(row[0]) + encode(row[1])) == sorted(
            rows, key=lambda row: (row[0].encode(), row[1])
        )

    @given(st.lists(st.tuples(texts, int64), min_size=2, max_size=8))
    def test_descending_turns_one_field_round(self, rows: list[tuple[str, int]]) -> None:
        assert sorted(rows, key=lambda row: descending(encode(row[0])) + encode(row[1])) == sorted(
            sorted(rows, key=lambda row: row[1]), key=lambda row: row[0].encode(), reverse=True
        )

    @given(st.lists(st.one_of(numbers, texts), max_size=4), st.lists(st.one_of(numbers, texts), max_size=4))
    def test_no_key_is_the_beginning_of_another(self, left: list[Any], right: list[Any]) -> None:
        one, other = encode(left), encode(right)
        assert one == other or not (one.startswith(other) or other.startswith(one))

    @given(st.one_of(st.lists(texts), st.lists(int64), st.lists(dates), st.lists(st.one_of(numbers, texts, st.none()))))
    def test_many_values_have_the_keys_that_each_has_alone(self, values: list[Any]) -> None:
        assert encode_each(values) == [encode(value) for value in values]

    def test_nan_equals_itself_and_comes_before_all_numbers(self) -> None:
        assert encode(math.nan) == encode(-math.nan)
        assert encode(math.nan) < encode(-math.inf)

    def test_zero_has_one_key_and_a_boolean_is_no_number(self) -> None:
        assert encode(0) == encode(0.0) == encode(-0.0) == encode(Int64(0))
        assert encode(False) != encode(0)

    def test_decimal128_is_refused(self) -> None:
        with pytest.raises(CommandError):
            encode(Decimal128("1"))
