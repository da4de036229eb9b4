"""What collections and indexes there are, and which index entries a document has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from infra.mongo_server.errors import CommandError
from infra.mongo_server.keys import NULL_KEY, UNDEFINED_KEY, descending, encode, encode_each
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
        columns = [lookup(doc, parts) for parts in self.parts]
        if self.sparse and all(value is MISSING for values in columns for value in values):
            return []
        keys = [b""]
        fanned_out = False
        for position, values in enumerate(columns):
            ascending = self.fields[position][1] > 0
            expanded = {key if ascending else descending(key) for key in _keys(values)}
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
class _Layout:
    """The short way to the keys of documents: what several indexes hold of them is reached and encoded once.

    It is for indexes over every document, and for fields without arrays on the way, as nearly all are; the rest is
    asked of the index.
    """

    fields: tuple[Parts, ...]
    columns: tuple[tuple[tuple[int, bool], ...] | None, ...]
    """Of each index, which fields make its key, and whether descending."""

    @classmethod
    def of(cls, indexes: Sequence[Index]) -> "_Layout":
        places: dict[Parts, int] = {}
        columns: list[tuple[tuple[int, bool], ...] | None] = []
        for index in indexes:
            if index.sparse or index.covers is not None:
                columns.append(None)
                continue
            directions = [direction < 0 for _, direction in index.fields]
            at = [places.setdefault(parts, len(places)) for parts in index.parts]
            columns.append(tuple(zip(at, directions, strict=True)))
        return cls(tuple(places), tuple(columns))

    def encoded(self, docs: Sequence[Doc]) -> list[list[bytes] | None]:
        """Of each field its encodings, one for each document; None where one of them has an array."""
        columns = [_column(docs, parts) for parts in self.fields]
        return [None if list in set(map(type, column)) else encode_each(column) for column in columns]


def _column(docs: Sequence[Doc], parts: Parts) -> list[Any]:
    """A field's values; what is missing is indexed as null."""
    if len(parts) == 1:
        name = parts[0]
        return [doc.get(name) for doc in docs]
    return [None if (value := reach(doc, parts)) is MISSING else value for doc in docs]


def _joined(fields: Sequence[list[bytes] | None], columns: Sequence[tuple[int, bool]]) -> list[bytes] | None:
    """Keys of their fields, one for each document; None where one of the fields is not plain."""
    joined = []
    for place, backward in columns:
        part = fields[place]
        if part is None:
            return None
        joined.append([descending(key) for key in part] if backward else part)
    return joined[0] if len(joined) == 1 else list(map(b"".join, zip(*joined, strict=True)))


@dataclass(frozen=True, slots=True)
class Entries:
    """Entries of one index: each key, and beside it the position of its document."""

    keys: list[bytes] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)

    def add(self, other: "Entries", first: int) -> None:
        """Those of further documents, of which the first has the position `first`."""
        self.keys.extend(other.keys)
        self.owners.extend([first + owner for owner in other.owners])

    @property
    def fan_out(self) -> bool:
        """Whether a document has more than one."""
        return len(set(self.owners)) < len(self.owners)


@dataclass(frozen=True, slots=True)
class Collection:
    id: int
    database: str
    name: str
    indexes: tuple[Index, ...]  # the first is `_id_`
    _layout: "_Layout" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_layout", _Layout.of(self.indexes))

    @property
    def table(self) -> str:
        return f"documents_{self.id}"

    @property
    def namespace(self) -> str:
        return f"{self.database}.{self.name}"

    @property
    def expiring(self) -> tuple[Index, ...]:
        return tuple(index for index in self.indexes if index.expire_after_seconds is not None)

    def entries(self, docs: Sequence[Doc]) -> list[Entries]:
        """The documents' entries, for each index. Many at once: a field is a column, and what it costs to look at one is shared."""
        fields = self._layout.encoded(docs)
        found = []
        for index, columns in zip(self.indexes, self._layout.columns, strict=True):
            keys = None if columns is None else _joined(fields, columns)
            found.append(_each_alone(index, docs) if keys is None else Entries(keys, list(range(len(keys)))))
        return found

    def keys(self, doc: Doc) -> list[list[bytes]]:
        """One document's keys, a list for each index."""
        return [entries.keys for entries in self.entries([doc])]

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


def _each_alone(index: Index, docs: Sequence[Doc]) -> Entries:
    found = Entries()
    for position, doc in enumerate(docs):
        keys = index.entries(doc)
        found.add(Entries(keys, [0] * len(keys)), position)
    return found


@dataclass(frozen=True, slots=True)
class Catalog:
    """All collections at one moment; `generation` grows with every change and is stored beside the data."""

    generation: int
    collections: Mapping[tuple[str, str], Collection]

    def find(self, database: str, name: str) -> Collection | None:
        return self.collections.get((database, name))
