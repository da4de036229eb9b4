"""The types of values at the edge: strict on the way in, exact on the way out. Their messages never hold the input."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)
from pydantic import Strict as StrictType
from pydantic_core import PydanticCustomError

from shared import money

DECIMAL_PATTERN = r"^(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?$"
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?", re.ASCII)
_INTEGER = re.compile(r"(0|[1-9][0-9]{0,18})", re.ASCII)
_TIMESTAMP = re.compile(r"(19|20|21)\d\d-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
BIGINT_MAX = 2**63 - 1


class Body(BaseModel):
    """The base of every request body: unknown fields are refused, nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _parse_decimal(value: Any) -> Decimal:
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise PydanticCustomError(
            "brokage_decimal",
            "This must be a decimal number in a string, with at most 18 digits before and after the point.",
        )
    return Decimal(value)


def _parse_positive(value: Any) -> Decimal:
    amount = _parse_decimal(value)
    if amount <= 0:
        raise PydanticCustomError("brokage_positive", "This must be greater than 0.")
    return amount


def _parse_timestamp(value: Any) -> datetime:
    if isinstance(value, str) and _TIMESTAMP.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise PydanticCustomError("brokage_timestamp", "This must be an RFC 3339 time with its offset from UTC.")


def _parse_integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value  # a default, not the caller's
    if not isinstance(value, str) or not _INTEGER.fullmatch(value):
        raise PydanticCustomError("brokage_integer", "This must be a whole number.")
    return int(value)


def _printable(value: Any) -> Any:
    if isinstance(value, str) and _UNPRINTABLE.search(value):
        raise PydanticCustomError("brokage_text", "This must not hold control or invisible characters.")
    return value


_DECIMAL_SCHEMA = {"type": "string", "pattern": DECIMAL_PATTERN, "examples": ["100.50"]}

DecimalString = Annotated[Decimal, PlainValidator(_parse_decimal), WithJsonSchema(_DECIMAL_SCHEMA)]
"""A decimal in a request: a JSON string of the contract's form, 0 or more."""

PositiveDecimal = Annotated[Decimal, PlainValidator(_parse_positive), WithJsonSchema(_DECIMAL_SCHEMA)]
"""A decimal above 0 in a request: sizes, prices, amounts."""

DecimalText = Annotated[
    Decimal, PlainSerializer(money.text, return_type=str), WithJsonSchema({"type": "string", "examples": ["100.5"]})
]
"""A decimal in an answer: plain notation, no exponent, no trailing zeros."""

Timestamp = Annotated[
    datetime, PlainValidator(_parse_timestamp), WithJsonSchema({"type": "string", "format": "date-time"})
]
"""A moment in a request, as aware UTC."""

CustomerId = Annotated[int, StrictType(), Field(ge=1, le=BIGINT_MAX)]
"""A customer in a body: a JSON number."""

# The bounds stand before the reader of text: after it they would be in the document under names no JSON Schema has.
CustomerIdText = Annotated[int, Field(ge=1, le=BIGINT_MAX), BeforeValidator(_parse_integer)]
"""A customer in a path or query."""

VisibleId = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,64}$")]
"""An id that the caller made up (client_order_id, reference): visible ASCII, so that two never look the same."""

AssetName = Annotated[str, StringConstraints(pattern=r"^[A-Z][A-Z0-9._-]{0,15}$")]


def text_field(max_length: int, min_length: int = 1) -> Any:
    """The annotation of free text: no control, zero-width or direction characters. Use as `Annotated[str,
    *text_field(80)]`."""
    return (BeforeValidator(_printable), StringConstraints(min_length=min_length, max_length=max_length))


Limit = Annotated[int, Field(ge=1, le=200), BeforeValidator(_parse_integer)]
CursorText = Annotated[str, StringConstraints(min_length=1, max_length=1024)]

UuidText = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
"""An id that we gave out, in canonical form."""
