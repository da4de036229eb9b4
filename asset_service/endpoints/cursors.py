"""Cursors of this service's collections, checked to be keys that it could have given out."""

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from shared.db.page import InvalidCursor, decode_cursor
from shared.http.fields import AssetName, CustomerId

T = TypeVar("T")
_names = TypeAdapter[str](AssetName)
_customers = TypeAdapter[int](CustomerId)


def name_after(cursor: str | None) -> str:
    """
    Raises:
        InvalidCursor: not one of ours; so for both of these.
    """
    if cursor is None:
        return ""
    (key,) = decode_cursor(cursor, str)
    return _checked(_names, key)


def asset_after(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    customer_id, name = decode_cursor(cursor, int, str)
    return _checked(_customers, customer_id), _checked(_names, name)


def _checked(adapter: TypeAdapter[T], value: object) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise InvalidCursor from error
