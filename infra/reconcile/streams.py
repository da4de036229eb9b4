"""Rows in the order of their keys, however many, and several such streams side by side. Memory holds a page of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, LiteralString, TypeVar

from shared.db import Connection
from shared.ids import new_id

T = TypeVar("T")
Row = dict[str, Any]
_PAGE = 2_000


def stream(
    connection: Connection,
    statement: LiteralString,
    only: LiteralString = "",
    keys: Sequence[str] | None = None,
    *,
    page: int = _PAGE,
    **parameters: Any,
) -> Iterator[Row]:
    """The rows of `statement`, by a cursor of the server in the caller's transaction.

    Args:
        statement: yields `key` in ascending order; has `/*only*/` at the end of its WHERE clause.
        only: with `keys`, the further condition on `%(keys)s` that narrows it to them.
        page: how many rows are in memory at a time.
    """
    if keys is not None:
        statement = statement.replace("/*only*/", f"AND {only}")
        parameters["keys"] = list(keys)
    with connection.cursor(name=f"reconcile-{new_id()}") as cursor:
        cursor.itersize = page
        cursor.execute(statement, parameters)
        yield from cursor


def side_by_side(*streams: Iterable[Row]) -> Iterator[tuple[str, list[list[Row]]]]:
    """Every key that any stream has, in order, with the rows that each has of it: a full outer merge join.

    Keys compare as text; a canonical UUID sorts alike as text and as Postgres sorts it.
    """
    groups = [groupby(each, key=itemgetter("key")) for each in streams]
    heads: list[tuple[str, list[Row]] | None] = [_next(group) for group in groups]
    while present := [head[0] for head in heads if head is not None]:
        key = min(present)
        together: list[list[Row]] = []
        for number, head in enumerate(heads):
            if head is not None and head[0] == key:
                together.append(head[1])
                heads[number] = _next(groups[number])
            else:
                together.append([])
        yield key, together


def _next(group: Iterator[tuple[str, Iterator[Row]]]) -> tuple[str, list[Row]] | None:
    found = next(group, None)
    return None if found is None else (found[0], list(found[1]))


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
