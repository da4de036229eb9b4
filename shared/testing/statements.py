"""What a connection executes, for tests that count it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from shared.db import Connection


@contextmanager
def statements_of(connection: Connection, seen: list[str]) -> Iterator[None]:
    """Add every statement that a cursor of `connection` executes meanwhile to `seen`."""

    class Counting(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            seen.append(str(query))
            return super().execute(query, *args, **kwargs)

    usual = connection.cursor_factory
    connection.cursor_factory = Counting
    try:
        yield
    finally:
        connection.cursor_factory = usual
