"""The auditor's collections and every access to them. Names of fields and indexes: S4, in snake case."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DESCENDING, IndexModel, WriteConcern
from pymongo.errors import BulkWriteError

from auditor.chain import Head
from auditor.settings import Settings
from shared.mongo import Document, MongoDatabase, only_duplicates
from shared.mongo.inbox import inbox_indexes
from shared.mongo.principals import principal_indexes

NAME = "auditor"
LOGS = "audit_logs"
INTAKE = "audit_intake"
HEAD = "audit_head"
TELEMETRY = "telemetry"
POSITIONS = "telemetry_positions"
_STREAM_BATCH = 1_000
_DELETED_AT_ONCE = 2_000


def open_database(settings: Settings, *, pool_size: int) -> MongoDatabase:
    """The auditor's database; nothing is connected yet."""
    indexes = {
        **inbox_indexes(kept_seconds=settings.processed_events_kept_seconds),
        **principal_indexes(),
        LOGS: _LOG_INDEXES,
        TELEMETRY: [_telemetry_index(settings)],
    }
    return MongoDatabase(settings.database_url, NAME, pool_size=pool_size, indexes=indexes)


# A plain collection, and none of its indexes expires: a time-series collection has no unique index, and the trail ends
# only by archiving.
_LOG_INDEXES = [
    IndexModel([("seq", ASCENDING)], name="uq_audit_logs_seq", unique=True),
    IndexModel([("event_id", ASCENDING)], name="uq_audit_logs_event_id", unique=True),
    IndexModel([("timestamp", ASCENDING)], name="idx_timestamp"),
    IndexModel([("user_id", ASCENDING), ("timestamp", DESCENDING)], name="idx_user_date"),
    IndexModel([("entity_type", ASCENDING), ("entity_id", ASCENDING)], name="idx_entity"),
]


def _telemetry_index(settings: Settings) -> IndexModel:
    kept = int(settings.telemetry_kept_seconds)
    return IndexModel([("timestamp", ASCENDING)], name="ttl_timestamp", expireAfterSeconds=kept)


def known_events(database: MongoDatabase, event_ids: Iterable[str]) -> set[str]:
    """Which of these events are in the trail."""
    return {row["_id"] for row in database[LOGS].find({"_id": {"$in": list(event_ids)}}, {"_id": 1})}


def encoded(records: Iterable[Document]) -> list[RawBSONDocument]:
    """Records as they travel to the store: made before it is their turn."""
    return [RawBSONDocument(bson.encode(record)) for record in records]


def append_records(database: MongoDatabase, records: Sequence[RawBSONDocument]) -> None:
    """Store them in order, up to the first that is refused; one command.

    Raises:
        BulkWriteError: a key was taken, or it is not confirmed.
    """
    database[LOGS].insert_many(records, ordered=True)


def last_record(database: MongoDatabase) -> Head | None:
    found = database[LOGS].find_one({}, {"seq": 1, "hash": 1}, sort=[("seq", DESCENDING)])
    return None if found is None else Head(found["seq"], found["hash"])


def hash_at(database: MongoDatabase, seq: int) -> str | None:
    found = database[LOGS].find_one({"seq": seq}, {"hash": 1})
    return None if found is None else found["hash"]


def delete_through(database: MongoDatabase, seq: int) -> None:
    """Take away the records up to `seq`, the oldest first, in bounded commands. Only what is archived may go."""
    with database.reachable():
        while found := database[LOGS].find_one({"seq": {"$lte": seq}}, {"seq": 1}, sort=[("seq", ASCENDING)]):
            database[LOGS].delete_many({"seq": {"$lte": min(seq, found["seq"] + _DELETED_AT_ONCE)}})


def find_head(database: MongoDatabase) -> Head | None:
    """The end of the chain as its writers noted it."""
    found = database[HEAD].find_one({"_id": "chain"})
    return None if found is None else Head(found["seq"], found["hash"])


def stream_logs(
    database: MongoDatabase, query: Document | None = None, *, batch: int = _STREAM_BATCH
) -> Iterator[Document]:
    """Records in ascending order of `seq`, read in batches as they are consumed."""
    with database.reachable():
        yield from database[LOGS].find(query or {}).sort("seq", ASCENDING).batch_size(batch)


def search_logs(database: MongoDatabase, query: Document, before_seq: int | None, limit: int) -> list[Document]:
    """The newest first."""
    if before_seq is not None:
        query = {**query, "seq": {"$lt": before_seq}}
    return list(database[LOGS].find(query).sort("seq", DESCENDING).limit(limit))


def count_refused(database: MongoDatabase) -> list[tuple[str, str, int]]:
    """Queue, kind and how many messages of it were refused, as far as the records of it are not archived."""
    # By the entity's type, which is indexed: there are few of them among very many.
    rows = database[LOGS].aggregate(
        [
            {"$match": {"entity_type": "message_queue", "action": "MessageRefused"}},
            {
                "$group": {
                    "_id": {"queue": "$new_value.queue", "kind": "$new_value.kind"},
                    "count": {"$sum": "$new_value.count"},
                }
            },
        ]
    )
    return [(row["_id"]["queue"], row["_id"]["kind"], row["count"]) for row in rows]


def put_intake(database: MongoDatabase, content: Document) -> None:
    """Acknowledged by a majority before this returns: the read it tells of may then be answered."""
    database[INTAKE].insert_one({"_id": content["event_id"], **content})


def waiting_intake(database: MongoDatabase, limit: int) -> list[Document]:
    return list(database[INTAKE].find({}).sort("_id", ASCENDING).limit(limit))


def drop_intake(database: MongoDatabase, event_ids: Sequence[str]) -> None:
    database[INTAKE].delete_many({"_id": {"$in": list(event_ids)}})


def insert_telemetry(database: MongoDatabase, documents: Sequence[Document]) -> None:
    """Acknowledged by one node only: telemetry is lossy by design."""
    collection = database[TELEMETRY].with_options(write_concern=WriteConcern(w=1))
    try:
        collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if not only_duplicates(error):
            raise


def list_telemetry(database: MongoDatabase, before_id: str | None, limit: int) -> list[Document]:
    query: Document = {} if before_id is None else {"_id": {"$lt": before_id}}
    return list(database[TELEMETRY].find(query).sort("_id", DESCENDING).limit(limit))


def telemetry_position(database: MongoDatabase) -> str:
    found = database[POSITIONS].find_one({"_id": "stream"})
    return "0-0" if found is None else str(found["position"])


def save_telemetry_position(database: MongoDatabase, position: str) -> None:
    database[POSITIONS].update_one({"_id": "stream"}, {"$set": {"position": position}}, upsert=True)


def log_query(
    *,
    entity_type: str | None = None,
    entity_id: str | None = None,
    user_id: int | None = None,
    action: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Document:
    """A filter; `start` is included, `end` is not."""
    given: dict[str, Any] = {"entity_type": entity_type, "entity_id": entity_id, "user_id": user_id, "action": action}
    query: Document = {name: value for name, value in given.items() if value is not None}
    period: Document = {}
    if start is not None:
        period["$gte"] = start
    if end is not None:
        period["$lt"] = end
    return {**query, "timestamp": period} if period else query
