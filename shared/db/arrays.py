"""Arrays as parameters."""

from collections.abc import Iterable


def uuid_array(ids: Iterable[str]) -> str:
    """`ids` as the text of a `uuid[]` parameter. psycopg would escape a list's elements one by one in Python, which a batch feels;
    an id has nothing to escape, and what is none fails at the cast."""
    return "{" + ",".join(ids) + "}"
