"""Collections, indexes, and what drivers ask a server about itself."""

import time
from datetime import UTC, datetime
from typing import Any

from bson.int64 import Int64

from infra.mongo_server.arguments import Arguments, check_fields
from infra.mongo_server.catalog import Collection
from infra.mongo_server.documents import backfill
from infra.mongo_server.errors import CommandError, not_supported
from infra.mongo_server.match import compile_filter
from infra.mongo_server.paths import Doc, split
from infra.mongo_server.protocol import DOCUMENT_SIZE_MAX, MESSAGE_SIZE_MAX, WRITE_BATCH_MAX
from infra.mongo_server.storage import ID_SPEC, Storage

VERSION = "7.0.0"
_WIRE_VERSION_MAX = 21  # that of MongoDB 7.0
_LABEL = "brokage local document server: for local use only, not MongoDB"
_INDEX = frozenset(
    {"v", "key", "name", "unique", "sparse", "partialFilterExpression", "expireAfterSeconds", "background"}
)
_PARTIAL_OPERATORS = frozenset({"$eq", "$exists", "$gt", "$gte", "$lt", "$lte", "$type", "$in"})
_INDEXES_MAX = 64


class Admin:
    """The commands beside reading and writing documents."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._started = time.monotonic()

    def hello(self, arguments: Arguments) -> Doc:
        # Not checked: with every version drivers offer abilities here, and what is not answered is not used.
        return {
            "helloOk": True,
            "isWritablePrimary": True,
            "ismaster": True,
            "maxBsonObjectSize": DOCUMENT_SIZE_MAX,
            "maxMessageSizeBytes": MESSAGE_SIZE_MAX,
            "maxWriteBatchSize": WRITE_BATCH_MAX,
            "localTime": datetime.now(UTC),
            "logicalSessionTimeoutMinutes": 30,
            "minWireVersion": 0,
            "maxWireVersion": _WIRE_VERSION_MAX,
            "readOnly": False,
            "ok": 1.0,
        }

    def ping(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset())
        return {"ok": 1.0}

    def end_sessions(self, arguments: Arguments) -> Doc:
        """Sessions hold nothing here."""
        arguments.check(frozenset())
        return {"ok": 1.0}

    def build_info(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset())
        return {
            "version": VERSION,
            "versionArray": [7, 0, 0, 0],
            "gitVersion": _LABEL,
            "modules": [_LABEL],
            "bits": 64,
            "maxBsonObjectSize": DOCUMENT_SIZE_MAX,
            "ok": 1.0,
        }

    def server_status(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset())
        uptime = time.monotonic() - self._started
        return {"version": VERSION, "process": _LABEL, "uptime": uptime, "localTime": datetime.now(UTC), "ok": 1.0}

    def get_parameter(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"featureCompatibilityVersion"}))
        if "featureCompatibilityVersion" not in arguments.body:
            raise CommandError(72, "no option found to get")
        return {"featureCompatibilityVersion": {"version": "7.0"}, "ok": 1.0}

    def list_databases(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"filter", "nameOnly", "authorizedDatabases"}))
        matches = compile_filter(arguments.document("filter"))
        with self._storage.read() as snapshot:
            names = sorted({database for database, _ in snapshot.catalog.collections})
        listed = [{"name": name, "sizeOnDisk": Int64(0), "empty": False} for name in names]
        if arguments.flag("nameOnly"):
            listed = [{"name": entry["name"]} for entry in listed]
        return {"databases": [entry for entry in listed if matches(entry)], "totalSize": Int64(0), "ok": 1.0}

    def list_collections(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"filter", "nameOnly", "authorizedCollections", "cursor"}))
        matches = compile_filter(arguments.document("filter"))
        listed: list[Doc] = []
        with self._storage.read() as snapshot:
            for database, name in snapshot.catalog.collections:
                if database == arguments.database:
                    listed.append({"name": name, "type": "collection"})
        if not arguments.flag("nameOnly"):
            extra = {"options": {}, "info": {"readOnly": False}, "idIndex": ID_SPEC}
            listed = [{**entry, **extra} for entry in listed]
        return _whole_cursor(f"{arguments.database}.$cmd.listCollections", [doc for doc in listed if matches(doc)])

    def create(self, arguments: Arguments) -> Doc:
        if "timeseries" in arguments.body:
            raise CommandError(72, "time-series collections do not exist here: use a plain collection with a TTL index")
        arguments.check(frozenset())
        with self._storage.write() as transaction:
            if transaction.catalog.find(arguments.database, arguments.target) is not None:
                raise CommandError(48, f"Collection {arguments.database}.{arguments.target} already exists.")
            transaction.collection(arguments.database, arguments.target)
        return {"ok": 1.0}

    def drop(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset())
        with self._storage.write() as transaction:
            collection = transaction.catalog.find(arguments.database, arguments.target)
            if collection is None:
                return {"ok": 1.0}
            transaction.drop(collection)
        return {"ns": collection.namespace, "nIndexesWas": len(collection.indexes), "ok": 1.0}

    def drop_database(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset())
        with self._storage.write() as transaction:
            for (database, _), collection in list(transaction.catalog.collections.items()):
                if database == arguments.database:
                    transaction.drop(collection)
        return {"dropped": arguments.database, "ok": 1.0}

    def create_indexes(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"indexes"}))
        specs = arguments.body.get("indexes")
        if not isinstance(specs, list) or not specs:
            raise CommandError(2, "'indexes' must be a nonempty array")
        with self._storage.write() as transaction:
            is_new = transaction.catalog.find(arguments.database, arguments.target) is None
            collection = transaction.collection(arguments.database, arguments.target)
            before = len(collection.indexes)
            for spec in map(_checked_spec, specs):
                if _is_known(collection, spec):
                    continue
                if len(collection.indexes) >= _INDEXES_MAX:
                    raise CommandError(67, f"a collection has at most {_INDEXES_MAX} indexes")
                collection, index = transaction.add_index(collection, spec)
                backfill(transaction, collection, index)
                collection = transaction.catalog.collections[collection.database, collection.name]
        after = len(collection.indexes)
        return {
            "numIndexesBefore": before,
            "numIndexesAfter": after,
            "createdCollectionAutomatically": is_new,
            "ok": 1.0,
        }

    def list_indexes(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"cursor"}))
        with self._storage.read() as snapshot:
            collection = _existing(snapshot.catalog.find(arguments.database, arguments.target), arguments)
        return _whole_cursor(collection.namespace, [index.spec for index in collection.indexes])

    def drop_indexes(self, arguments: Arguments) -> Doc:
        arguments.check(frozenset({"index"}))
        with self._storage.write() as transaction:
            collection = _existing(transaction.catalog.find(arguments.database, arguments.target), arguments)
            wanted = arguments.body.get("index")
            if wanted == "*":
                doomed = list(collection.indexes[1:])
            else:
                names = wanted if isinstance(wanted, list) else [wanted]
                doomed = [index for index in collection.indexes if index.name in names or index.spec["key"] in names]
                if len(doomed) < len(names):
                    raise CommandError(27, f"index not found with name or key {wanted!r}")
            for index in doomed:
                if index.name == "_id_":
                    raise CommandError(72, "cannot drop _id index")
                transaction.drop_index(index)
        return {"nIndexesWas": len(collection.indexes), "ok": 1.0}


def _whole_cursor(namespace: str, documents: list[Doc]) -> Doc:
    """An answer that always fits one batch."""
    return {"cursor": {"id": Int64(0), "ns": namespace, "firstBatch": documents}, "ok": 1.0}


def _existing(collection: Collection | None, arguments: Arguments) -> Collection:
    if collection is None:
        raise CommandError(26, f"ns does not exist: {arguments.database}.{arguments.target}")
    return collection


def _checked_spec(spec: Any) -> Doc:
    """One index as it is kept and listed: MongoDB's fields, only those that say something."""
    check_fields("createIndexes.indexes", spec, _INDEX)
    key, name = spec.get("key"), spec.get("name")
    if not isinstance(key, dict) or not key or not isinstance(name, str) or not name:
        raise CommandError(67, "an index needs a 'key' and a 'name'")
    for path, direction in key.items():
        if "$" in path:
            raise CommandError(67, f"invalid index field {path!r}")
        split(path)
        if isinstance(direction, bool) or direction not in (1, -1):
            raise CommandError(67, f"an index of kind {direction!r} is not supported by the local document server")
    checked: Doc = {"v": 2, "key": {path: int(direction) for path, direction in key.items()}, "name": name}
    for flag in ("unique", "sparse"):
        if spec.get(flag):
            checked[flag] = True
    if "partialFilterExpression" in spec:
        if checked.get("sparse"):
            raise CommandError(67, "cannot mix 'partialFilterExpression' and 'sparse'")
        _check_partial(spec["partialFilterExpression"])
        checked["partialFilterExpression"] = spec["partialFilterExpression"]
    if "expireAfterSeconds" in spec:
        seconds = spec["expireAfterSeconds"]
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1 << 31:
            raise CommandError(67, "expireAfterSeconds must be a number of at least 0")
        if len(key) != 1 or "_id" in key:
            raise CommandError(67, "TTL indexes are single-field indexes, not on _id")
        checked["expireAfterSeconds"] = seconds
    return checked


def _check_partial(expression: Any) -> None:
    compile_filter(expression)
    for path, condition in expression.items():
        if path.startswith("$"):
            raise not_supported(f"{path} in a partialFilterExpression")
        operators = condition if isinstance(condition, dict) else {}
        for name, operand in operators.items():
            if name.startswith("$") and (name not in _PARTIAL_OPERATORS or (name == "$exists" and not operand)):
                raise CommandError(67, f"unsupported expression in a partial index: {name}")


def _is_known(collection: Collection, spec: Doc) -> bool:
    """Whether the index is there already; the same name or key with other options is refused, as MongoDB does."""
    if list(spec["key"].items()) == [("_id", 1)]:
        return True
    for index in collection.indexes:
        same_key = list(index.spec["key"].items()) == list(spec["key"].items())
        if index.name == spec["name"]:
            if same_key and index.spec == spec:
                return True
            raise CommandError(86, f"an existing index has the same name as the requested index: {index.name}")
        if same_key and index.partial == spec.get("partialFilterExpression"):
            raise CommandError(85, f"index already exists with a different name: {index.name}")
    return False
