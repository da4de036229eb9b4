"""Collections: `limit` and `cursor` in, `{"data": [...], "next_cursor": ...}` out. Rows are paged by
`shared.db.page`."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel

from shared.errors import FieldError, ValidationFailed
from shared.http.fields import CursorText, Limit

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    limit: int
    cursor: str | None


class Collection(BaseModel, Generic[T]):
    """A page of a collection; `next_cursor` is null on the last."""

    data: list[T]
    next_cursor: str | None


async def _page(
    limit: Annotated[Limit, Query()] = 50, cursor: Annotated[CursorText | None, Query()] = None
) -> PageRequest:
    return PageRequest(limit, cursor)


Paging = Annotated[PageRequest, Depends(_page)]
"""Endpoint parameter: `def list_orders(paging: Paging, ...) -> Collection[OrderRead]`."""


def require_period(start: datetime | None, end: datetime | None, *, end_name: str) -> None:
    """
    Raises:
        ValidationFailed: at the query parameter `end_name`; the period ends before it starts, so the empty page that
            it would find says nothing.
    """
    if start is not None and end is not None and end < start:
        raise ValidationFailed(errors=[FieldError(f"/query/{end_name}", "This must not be before the period's start.")])
