"""Sort specifications as one key per document."""

from collections.abc import Callable
from typing import Any

from infra.mongo_server.errors import bad_value, not_supported
from infra.mongo_server.keys import NULL_KEY, UNDEFINED_KEY, descending, encode
from infra.mongo_server.paths import MISSING, Doc, lookup, split

SortKey = Callable[[Doc], bytes]


def parse_sort(spec: Any) -> list[tuple[str, int]]:
    if not isinstance(spec, dict):
        raise bad_value("a sort must be an object")
    fields = []
    for path, direction in spec.items():
        if path.startswith("$"):
            raise not_supported(f"sorting by {path}")
        if isinstance(direction, bool | dict | str) or direction not in (1, -1):
            raise bad_value("a sort direction is 1 or -1")
        split(path)
        fields.append((path, int(direction)))
    return fields


def compile_sort(spec: Any) -> SortKey:
    """A key whose bytes order documents; of an array the smallest element counts, descending the largest."""
    fields = [(split(path), direction) for path, direction in parse_sort(spec)]
    if not fields:
        raise bad_value("a sort needs at least one field")

    def key(doc: Doc) -> bytes:
        parts = []
        for path, direction in fields:
            candidates = [candidate for value in lookup(doc, path) for candidate in _candidates(value)] or [NULL_KEY]
            parts.append(min(candidates) if direction > 0 else descending(max(candidates)))
        return b"".join(parts)

    return key


def _candidates(value: Any) -> list[bytes]:
    if value is MISSING:
        return [NULL_KEY]
    if isinstance(value, list):
        return [encode(item) for item in value] or [UNDEFINED_KEY]
    return [encode(value)]
