"""The documents of a backup: read over the wire as they were at one moment, written back into an empty server.

Snapshots are MongoDB's own (read concern `snapshot`): of a replica set, or of the local document server.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import IndexModel, MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from infra.reconcile.stores import MONGO
from infra.reconcile.streams import chunks
from infra.runtime.failures import CannotStart, RuntimeFailure

FOLDER = "documents"
INDEXES = "indexes.json"
_BATCH = 1_000
_GZIP_LEVEL = 1
_SELECTION_MS = 5_000
_SOCKET_MS = 60_000
_NO_SNAPSHOTS = frozenset({20, 72, 115, 123, 246})


class Snapshot:
    """The documents of all services at one moment, until it is closed. `pin` chooses the moment: that of its last call."""

    def __init__(self, url: str) -> None:
        self._client: MongoClient[dict[str, Any]] = MongoClient(
            url, appname="brokage backup", serverSelectionTimeoutMS=_SELECTION_MS, socketTimeoutMS=_SOCKET_MS
        )
        self._session = self._client.start_session(snapshot=True)
        self._collections: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.end_session()
        self._client.close()

    def connect(self) -> None:
        """Do what takes time beforehand.

        Raises:
            RuntimeFailure: no server answers.
        """
        try:
            self._client.admin.command("ping")
        except PyMongoError as error:
            raise RuntimeFailure("the document server does not answer") from error

    def pin(self) -> None:
        self._session.end_session()
        self._session = self._client.start_session(snapshot=True)
        try:
            self._client[MONGO[0]]["pin"].find_one({}, session=self._session)
            self._collections = [(name, each) for name in MONGO for each in self._client[name].list_collection_names()]
        except OperationFailure as error:
            if error.code in _NO_SNAPSHOTS:
                raise RuntimeFailure("the document server gives no snapshots: it must be a replica set") from error
            raise

    def write(self, directory: Path) -> dict[str, int]:
        """Write every collection with its indexes below `directory`; how many documents each has."""
        counts: dict[str, int] = {}
        indexes: dict[str, Any] = {}
        for database, name in sorted(self._collections):
            if name.startswith("system."):
                continue
            collection = self._client[database][name]
            folder = directory / database
            folder.mkdir(parents=True, exist_ok=True)
            with gzip.open(folder / f"{name}.bson.gz", "wb", _GZIP_LEVEL) as stream:
                batches: Any = collection.find_raw_batches({}, session=self._session, batch_size=_BATCH)
                counts[f"{database}.{name}"] = sum(_copy(batch, stream) for batch in batches)
            indexes[f"{database}.{name}"] = [
                {"key": list(index["key"].items()), **{k: v for k, v in index.items() if k not in ("v", "key", "ns")}}
                for index in collection.list_indexes()
                if index["name"] != "_id_"
            ]
        (directory / INDEXES).write_text(json.dumps(indexes, indent=1), encoding="utf-8")
        return counts


def _copy(batch: bytes, stream: gzip.GzipFile) -> int:
    stream.write(batch)
    found = position = 0
    while position < len(batch):
        position += int.from_bytes(batch[position : position + 4], "little")
        found += 1
    return found


def load(url: str, directory: Path) -> int:
    """Put what `write` wrote into a server that has nothing of it; how many documents that were.

    Raises:
        CannotStart: it has documents already.
    """
    indexes: dict[str, Any] = json.loads((directory / INDEXES).read_text(encoding="utf-8"))
    client: MongoClient[Any] = MongoClient(
        url, w="majority", journal=True, serverSelectionTimeoutMS=_SELECTION_MS, socketTimeoutMS=_SOCKET_MS
    )
    with client:
        for name in MONGO:
            if any(client[name][each].find_one() for each in client[name].list_collection_names()):
                raise CannotStart(f"the document server has a database {name} already; empty it or name another one")
        total = 0
        for full_name, models in indexes.items():
            database, name = full_name.split(".", 1)
            collection = client[database][name]
            if models:
                collection.create_indexes([_index(**model) for model in models])
            for batch in chunks(_documents(directory / database / f"{name}.bson.gz"), _BATCH):
                collection.insert_many(batch, ordered=False)
                total += len(batch)
        return total


def _index(key: list[tuple[str, int]], **options: Any) -> IndexModel:
    return IndexModel([(name, direction) for name, direction in key], **options)


def _documents(file: Path) -> Iterator[RawBSONDocument]:
    with gzip.open(file, "rb") as stream:
        yield from bson.decode_file_iter(cast(IO[bytes], stream), CodecOptions(document_class=RawBSONDocument))
