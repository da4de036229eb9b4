"""Order-preserving bytes for BSON values: the one definition of equality and order in this server.

Two values compare as their encodings compare as bytes; encodings are prefix-free, so several of them concatenated
compare field by field. Indexes, sorts, range filters, `$group` keys and `distinct` all use it: they cannot disagree.
Numbers of all widths share one encoding (1 == 1.0), booleans do not (True != 1). Decimal128 has no place in queries
(house rule) and is refused.
"""

import math
import struct
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from bson.binary import Binary
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

from infra.mongo_server.errors import bad_value

UNDEFINED_KEY: Final = b"\x04"  # the index entry of an empty array: below null
NULL_KEY: Final = b"\x05"
TAG_ARRAY: Final = 25

_STRING: Final = "\x0f"
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - bson decodes to naive UTC, and so does this server throughout
_MILLISECOND = timedelta(milliseconds=1)
_COMPLEMENT = bytes(255 - byte for byte in range(256))
_SIGN = 1 << 63
_ALL = (1 << 64) - 1
_pack_double = struct.Struct(">d").pack
_pack_number = struct.Struct(">BQH").pack
_unpack_bits = struct.Struct(">Q").unpack
_pack_date = struct.Struct(">BQ").pack
_HALF = 0x8000
_cached = lru_cache(maxsize=4096)


def encode(value: Any) -> bytes:
    """The comparable bytes of one value; a type without a defined order here is refused."""
    return _encoder(type(value))(value)


def encode_each(values: Sequence[Any]) -> list[bytes]:
    """`encode` of each. A field's values are mostly of one type; then it costs a third."""
    kinds = set(map(type, values))
    if kinds == {str} and "\0" not in "".join(values):
        return [f"{_STRING}{value}\0\0".encode() for value in values]
    if len(kinds) == 1:
        return list(map(_encoder(kinds.pop()), values))
    return [encode(value) for value in values]


def _encoder(kind: type) -> Callable[[Any], bytes]:
    encoder = _ENCODERS.get(kind)
    if encoder is None:
        raise bad_value(f"a value of type {kind.__name__} cannot be compared, sorted or indexed")
    return encoder


def descending(encoded: bytes) -> bytes:
    """The same key in reverse order."""
    return encoded.translate(_COMPLEMENT)


def milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND


def _text(tag: int) -> Callable[[str], bytes]:
    head = bytes([tag])

    def encode_text(value: str) -> bytes:
        raw = value.encode()
        if b"\0" in raw:
            raw = raw.replace(b"\0", b"\0\xff")
        return head + raw + b"\0\0"

    return encode_text


_string = _text(ord(_STRING))


def _number(value: float) -> bytes:
    # An integer beyond 2**53 is its nearest double plus an exact remainder of at most 512.
    nearest = float(value)
    remainder = int(value) - int(nearest) if isinstance(value, int) else 0
    if math.isnan(nearest):
        return _pack_number(10, 0, _HALF)
    (bits,) = _unpack_bits(_pack_double(nearest + 0.0))
    return _pack_number(10, bits ^ _ALL if bits & _SIGN else bits | _SIGN, remainder + _HALF)


def _object(value: dict[str, Any]) -> bytes:
    parts = [b"\x14"]
    for name, item in value.items():
        encoded = encode(item)
        parts.append(encoded[:1] + _string(name) + encoded)
    parts.append(b"\0")
    return b"".join(parts)


def _array(value: list[Any]) -> bytes:
    return b"\x19" + b"".join([encode(item) for item in value]) + b"\0"


def _binary(value: bytes) -> bytes:
    subtype = value.subtype if isinstance(value, Binary) else 0
    return struct.pack(">BIB", 30, len(value), subtype) + value


def _regex(value: Regex[Any]) -> bytes:
    pattern = value.pattern if isinstance(value.pattern, str) else value.pattern.decode()
    return _text(50)(pattern) + struct.pack(">I", value.flags)


_ENCODERS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: NULL_KEY,
    str: _string,
    int: _cached(_number),
    Int64: _number,
    float: _number,
    bool: lambda value: b"\x28\x01" if value else b"\x28\x00",
    datetime: _cached(lambda value: _pack_date(45, milliseconds(value) + _SIGN)),
    ObjectId: lambda value: b"\x23" + value.binary,
    dict: _object,
    list: _array,
    bytes: _binary,
    Binary: _binary,
    Timestamp: lambda value: struct.pack(">BII", 47, value.time, value.inc),
    Regex: _regex,
    MinKey: lambda value: b"\x01",
    MaxKey: lambda value: b"\x7f",
}
