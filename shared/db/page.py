"""Pages by key: a page starts after the last row of the one before, so that inserts in between neither repeat nor hide a row."""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from shared.ids import is_id

T = TypeVar("T")


class InvalidCursor(Exception):
    """A cursor that this collection did not give out."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    data: list[T]
    next_cursor: str | None


def encode_cursor(keys: Sequence[str | int]) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(list(keys))).rstrip(b"=").decode()


def decode_cursor(cursor: str, *types: type) -> list[Any]:
    """The keys of the last row seen.

    Raises:
        InvalidCursor: not one of ours, or of another collection.
    """
    try:
        raw = base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))
        keys = msgspec.json.decode(raw)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise InvalidCursor from error
    if not isinstance(keys, list) or [type(key) for key in keys] != list(types) or encode_cursor(keys) != cursor:
        raise InvalidCursor
    return keys


def decode_id_cursor(cursor: str | None) -> str | None:
    """The id of the last row seen, of a collection in the order of its ids.

    Raises:
        InvalidCursor: as `decode_cursor`, or it holds no id.
    """
    if cursor is None:
        return None
    (key,) = decode_cursor(cursor, str)
    if not is_id(key):
        raise InvalidCursor
    return str(key)


def page_of(rows: Sequence[T], *, limit: int, key: Callable[[T], Sequence[str | int]]) -> Page[T]:
    """A page from `limit + 1` rows asked for: the extra row only tells that there is more."""
    data = list(rows[:limit])
    more = len(rows) > limit
    return Page(data, encode_cursor(key(data[-1])) if more and data else None)
