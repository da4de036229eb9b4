"""Identifiers that leave a service: UUIDv7 in canonical text, so that keys are roughly in order of creation."""

from collections.abc import Iterable
from uuid import UUID

from uuid_utils import uuid7

ROOT_ORGANIZATION_ID = "00000000-0000-7000-8000-000000000001"
"""The organization of everything until there are several."""


def new_id() -> str:
    return str(uuid7())


def is_id(text: str) -> bool:
    """Whether `text` is a UUID in canonical lower-case form."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def uuid_array(ids: Iterable[str]) -> str:
    """`ids` as the text of a `uuid[]` parameter. psycopg would escape a list's elements one by one in Python, which a batch feels;
    an id has nothing to escape, and what is none fails at the cast."""
    return "{" + ",".join(ids) + "}"
