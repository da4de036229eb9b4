"""What collections and indexes there are, and which index entries a document has."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from infra.mongo_server.errors import CommandError
from infra.mongo_server.keys import NULL_KEY, UNDEFINED_KEY, descending, encode
from infra.mongo_server.match import Predicate, compile_filter
from infra.mongo_server.paths import MISSING, Doc, Parts, lookup, reach, split


@dataclass(frozen=True, slots=True)
class Index:
    """One index, kept as an SQLite table of (key, row id).

    A key is the concatenation of the fields' encodings, a descending field's complemented: a key's bytes order as
    the index orders.
    """

    id: int
    name: str
    fields: tuple[tuple[str, int], ...]
    parts: tuple[Parts, ...]
    unique: bool
    sparse: bool
    partial: Doc | None
    covers: Predicate | None
    expire_after_seconds: float | None
    multikey: bool  # some document has more than one entry, because a field is an array
    spec: Doc

    @classmethod
    def from_spec(cls, index_id: int, spec: Doc, *, multikey: bool) -> "Index":
        fields = tuple((path, int(direction)) for path, direction in spec["key"].items())
        partial = spec.get("partialFilterExpression")
        return cls(
            id=index_id,
            name=spec["name"],
            fields=fields,
            parts=tuple(split(path) for path, _ in fields),
            unique=bool(spec.get("unique")) or spec["name"] == "_id_",
            sparse=bool(spec.get("sparse")),
            partial=partial,
            covers=None if partial is None else compile_filter(partial),
            expire_after_seconds=spec.get("expireAfterSeconds"),
            multikey=multikey,
            spec=spec,
        )

    @property
    def table(self) -> str:
        return f"index_{self.id}"

    def entries(self, doc: Doc) -> list[bytes]:
        """The document's keys here: one, several for an array, none where a sparse or partial index leaves it out."""
        if self.covers is not None and not self.covers(doc):
            return []
        key = self._plain_key(doc)
        return self._all_entries(doc) if key is None else [key]

    def _plain_key(self, doc: Doc) -> bytes | None:
        """The one key of a document without arrays on the way, as nearly all are; None if it takes a closer look."""
        key = b""
        for parts, (_, direction) in zip(self.parts, self.fields, strict=True):
            value = reach(doc, parts)
            if isinstance(value, list) or (value is MISSING and self.sparse):
                return None
            encoded = NULL_KEY if value is MISSING else encode(value)
            key += encoded if direction > 0 else descending(encoded)
        return key

    def _oriented(self, position: int, key: bytes) -> bytes:
        return key if self.fields[position][1] > 0 else descending(key)

    def _all_entries(self, doc: Doc) -> list[bytes]:
        columns = [lookup(doc, parts) for parts in self.parts]
        if self.sparse and all(value is MISSING for values in columns for value in values):
            return []
        keys = [b""]
        fanned_out = False
        for position, values in enumerate(columns):
            expanded = {self._oriented(position, key) for key in _keys(values)}
            if len(values) != 1 or isinstance(values[0], list):
                if fanned_out:
                    raise CommandError(171, f"index {self.name} has more than one array field in one document")
                fanned_out = True
            keys = [key + tail for key in keys for tail in expanded]
        return keys

    def describe_key(self, doc: Doc) -> dict[str, Any]:
        """`keyPattern` and `keyValue` of a duplicate-key error."""
        values = {}
        for (path, _), parts in zip(self.fields, self.parts, strict=True):
            found = lookup(doc, parts)
            values[path] = found[0] if found and found[0] is not MISSING else None
        return {"keyPattern": dict(self.spec["key"]), "keyValue": values}


def _keys(values: list[Any]) -> list[bytes]:
    keys: list[bytes] = []
    for value in values:
        if value is MISSING:
            keys.append(NULL_KEY)
        elif isinstance(value, list):
            keys.extend([encode(item) for item in value] or [UNDEFINED_KEY])
        else:
            keys.append(encode(value))
    return keys or [NULL_KEY]


@dataclass(frozen=True, slots=True)
class Collection:
    id: int
    database: str
    name: str
    indexes: tuple[Index, ...]  # the first is `_id_`

    @property
    def table(self) -> str:
        return f"documents_{self.id}"

    @property
    def namespace(self) -> str:
        return f"{self.database}.{self.name}"

    @property
    def expiring(self) -> tuple[Index, ...]:
        return tuple(index for index in self.indexes if index.expire_after_seconds is not None)

    def hides(self, doc: Doc, now: datetime) -> bool:
        """Whether a TTL index says the document is over, although the sweep has not removed it yet."""
        for index in self.expiring:
            assert index.expire_after_seconds is not None
            limit = now - timedelta(seconds=index.expire_after_seconds)
            for value in lookup(doc, index.parts[0]):
                moments = value if isinstance(value, list) else [value]
                if any(isinstance(moment, datetime) and moment <= limit for moment in moments):
                    return True
        return False


@dataclass(frozen=True, slots=True)
class Catalog:
    """All collections at one moment; `generation` grows with every change and is stored beside the data."""

    generation: int
    collections: Mapping[tuple[str, str], Collection]

    def find(self, database: str, name: str) -> Collection | None:
        return self.collections.get((database, name))
