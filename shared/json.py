"""The strict JSON reader of the edge, and a writer. Source: contract, HTTP; RFC 8259; RFC 7493 (I-JSON)."""

import json
import re
from decimal import Decimal
from typing import Any, NoReturn

import msgspec

from shared.errors import MalformedJson

DEPTH_MAX = 32
_NUMBER_LENGTH_MAX = 400
_EXPONENT_MAX = 308  # beyond it a double is infinite, and readers disagree about what the number was

_BOM = b"\xef\xbb\xbf"
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKETS = re.compile(rb"[\[{\]}]")
_FORBIDDEN = re.compile("[\x00\ud800-\udfff]")
_ENCODER = msgspec.json.Encoder()


def loads(data: bytes) -> Any:
    """The document in `data`. Numbers are `int` or `Decimal`, never float.

    Raises:
        MalformedJson: anything RFC 7493 forbids, or nested more than 32 deep.
    """
    if data.startswith(_BOM):
        raise MalformedJson("The body starts with a byte order mark.")
    try:
        text = data.decode("utf-8", errors="strict")
    except UnicodeDecodeError:
        raise MalformedJson("The body is not UTF-8.") from None
    _refuse_depth(data)
    try:
        document = _DECODER.decode(text)
    except (ValueError, RecursionError):
        raise MalformedJson("The body is not JSON.") from None
    if "\\u" in text:
        _refuse_forbidden_characters(document)
    return document


def dumps(value: object) -> bytes:
    """Compact UTF-8; Decimal and datetime become strings."""
    return _ENCODER.encode(value)


def _refuse_depth(data: bytes) -> None:
    """Counted before parsing, because a parser that recurses may have died by then."""
    if data.count(b"[") + data.count(b"{") <= DEPTH_MAX:
        return
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > DEPTH_MAX:
            raise MalformedJson(f"The body is nested more than {DEPTH_MAX} deep.")


def _refuse_forbidden_characters(value: Any) -> None:
    """Only an escape can bring in NUL or a lone surrogate: strict UTF-8 and JSON's own rules stop them otherwise."""
    if isinstance(value, str):
        if _FORBIDDEN.search(value):
            raise MalformedJson("The body holds a NUL character or a lone surrogate.")
    elif isinstance(value, list):
        for item in value:
            _refuse_forbidden_characters(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_forbidden_characters(key)
            _refuse_forbidden_characters(item)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise MalformedJson("An object of the body has the same key twice.")
    return document


def _constant(_: str) -> NoReturn:
    raise MalformedJson("NaN and Infinity are not JSON.")


def _integer(text: str) -> int:
    if len(text) > _NUMBER_LENGTH_MAX:
        raise MalformedJson("A number of the body is too long.")
    return int(text)


def _decimal(text: str) -> Decimal:
    exponent = text.lower().partition("e")[2]
    if len(text) > _NUMBER_LENGTH_MAX or len(exponent) > 5 or abs(int(exponent or 0)) > _EXPONENT_MAX:
        raise MalformedJson("A number of the body is beyond the range of a double.")
    return Decimal(text)


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_constant, parse_int=_integer, parse_float=_decimal, strict=True
)
