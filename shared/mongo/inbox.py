"""The inbox on MongoDB, without transactions.

Effects come first and carry unique keys of their own; that a batch is DONE is written last. A crash in between repeats
the effects, which then change nothing. Source: messaging protocol, MONGO.
"""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import msgspec
from pymongo import ASCENDING, IndexModel, InsertOne, ReturnDocument, UpdateOne
from pymongo.errors import BulkWriteError, ServerSelectionTimeoutError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from shared.clock import utc_now
from shared.contracts.message import Message
from shared.db.engine import DatabaseUnavailable
from shared.faults import fault
from shared.ids import new_id
from shared.messaging.inbox import InboxTransaction, Malformed, State, Unavailable, as_it_came
from shared.mongo.database import Document, Indexes, MongoDatabase, is_transient, only_duplicates

T = TypeVar("T")
Handler: TypeAlias = Callable[[Sequence[Message[Any]]], None]

PROCESSED = "processed_events"
DEAD_LETTERS = "dead_letters"
ATTEMPTS_MAX = 4
DOWN_SECONDS = 2.0
"""For how long after a failure the store is not tried again."""


def inbox_indexes(*, kept_seconds: float) -> Indexes:
    """Those of the inbox's collections; what was processed is forgotten after `kept_seconds`."""
    return {
        PROCESSED: [
            IndexModel([("processed_at", ASCENDING)], name="ttl_processed_at", expireAfterSeconds=int(kept_seconds))
        ],
        DEAD_LETTERS: [
            IndexModel([("consumer", ASCENDING), ("event_id", ASCENDING)], name="uq_dead_letters", unique=True),
            IndexModel([("resolved_at", ASCENDING), ("aggregate_id", ASCENDING)], name="idx_dead_letters_open"),
        ],
    }


class MongoInboxStore:
    """`processed_events` and `dead_letters` of one consumer, in its own database.

    `handler` must be idempotent by keys that its effects carry: it may see the same events again, whole or in part.
    """

    def __init__(self, database: MongoDatabase, *, consumer: str, handler: Handler) -> None:
        self._database = database
        self._consumer = consumer
        self._handler = handler
        self._down_until = 0.0

    def transaction(self, work: Callable[[InboxTransaction], T]) -> T:
        if time.monotonic() < self._down_until:
            raise Unavailable(self._consumer)
        retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS_MAX),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            retry=retry_if_exception(_may_pass_soon),
            reraise=True,
        )
        try:
            result: T = retrying(self._once, work)
            return result
        except Exception as error:
            if _may_pass(error):
                # Workers' threads are shared by all services: while this store is away they must not all wait for it.
                self._down_until = time.monotonic() + DOWN_SECONDS
                raise Unavailable(self._consumer) from error
            raise

    def _once(self, work: Callable[[InboxTransaction], T]) -> T:
        transaction = _Transaction(self._database, self._consumer, self._handler)
        result = work(transaction)
        fault("mongo_inbox.before_done")
        transaction.write_done()
        fault("mongo_inbox.done")
        return result


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, DatabaseUnavailable) or is_transient(error)


def _may_pass_soon(error: BaseException) -> bool:
    """Not where a long wait is behind it already: nobody to talk to, or other writers that do not end."""
    return is_transient(error) and not isinstance(error, ServerSelectionTimeoutError)


class _Transaction:
    """Not one: claims are remembered and written as the last thing. Two concurrent ones may both own a batch, and both
    find that the effects are there."""

    def __init__(self, database: MongoDatabase, consumer: str, handler: Handler) -> None:
        self._processed = database[PROCESSED]
        self._dead_letters = database[DEAD_LETTERS]
        self._consumer = consumer
        self._handler = handler
        self._done: list[InsertOne[Document] | UpdateOne] = []
        self._blocked: set[str] | None = None
        self.now: datetime = utc_now()

    def claim(self, ids: Sequence[str], *, single: bool) -> set[str]:
        known = self.states(ids)
        owned = {id for id in ids if id not in known or (single and known[id] is State.SPLIT)}
        mine = [id for id in ids if id in owned]
        if single:
            self._done += [self._mark(id, State.DONE, "$set") for id in mine]
        else:
            # A split batch that appears in between keeps its marker: its single events decide.
            self._done += [InsertOne({"_id": id, **self._fields(State.DONE)}) for id in mine]
        return owned

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        rows = self._processed.find({"_id": {"$in": list(ids)}}, {"state": 1})
        return {row["_id"]: State(row["state"]) for row in rows}

    def mark_split(self, ids: Sequence[str]) -> None:
        if ids:
            self._processed.bulk_write([self._mark(id, State.SPLIT, "$setOnInsert") for id in ids])

    def finish(self, batch_id: str) -> None:
        self._processed.bulk_write([self._mark(batch_id, State.DONE, "$set")])

    def count_attempt(self, event_id: str) -> int:
        row = self._processed.find_one_and_update(
            {"_id": event_id},
            {
                "$inc": {"attempts": 1},
                "$setOnInsert": {"consumer": self._consumer, "state": State.SPLIT.value, "processed_at": self.now},
            },
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        assert row is not None, "an upsert answers with the document"
        attempts: int = row["attempts"]
        return attempts

    def abandoned(self, event_ids: Sequence[str]) -> set[str]:
        begun = {"_id": {"$in": list(event_ids)}, "state": State.SPLIT.value, "attempts": {"$gt": 0}}
        return {row["_id"] for row in self._processed.find(begun, {"_id": 1})}

    def uncount_attempts(self, event_ids: Sequence[str]) -> None:
        self._processed.update_many(
            {"_id": {"$in": list(event_ids)}, "attempts": {"$gt": 0}}, {"$inc": {"attempts": -1}}
        )

    def blocked(self) -> set[str]:
        if self._blocked is None:
            rows = self._dead_letters.find({"resolved_at": None}, {"aggregate_id": 1})
            self._blocked = {row["aggregate_id"] for row in rows}
        return self._blocked

    def park(self, message: Message[Any] | Malformed, reason: str) -> None:
        self._dead_letter([message], "PARKED", reason)

    def hold(self, messages: Sequence[Message[Any]]) -> None:
        self._dead_letter(messages, "HELD", "waits behind a parked event of its aggregate")

    def handle(self, messages: Sequence[Message[Any]]) -> None:
        if messages:
            self._handler(messages)
            fault("mongo_inbox.handled")

    def write_done(self) -> None:
        if self._done:
            try:
                self._processed.bulk_write(self._done, ordered=False)
            except BulkWriteError as error:
                if not only_duplicates(error):
                    raise

    def _mark(self, id: str, state: State, operator: str) -> UpdateOne:
        return UpdateOne({"_id": id}, {operator: self._fields(state)}, upsert=True)

    def _fields(self, state: State) -> Document:
        return {"consumer": self._consumer, "state": state.value, "processed_at": self.now}

    def _dead_letter(self, messages: Sequence[Message[Any] | Malformed], status: str, reason: str) -> None:
        rows = [self._letter(message, status, reason) for message in messages]
        try:
            self._dead_letters.insert_many(rows, ordered=False)
        except BulkWriteError as error:
            if not only_duplicates(error):
                raise
        self._blocked = None

    def _letter(self, message: Message[Any] | Malformed, status: str, reason: str) -> Document:
        return {
            # Ids grow with time within a process, so held events follow each other in the order of their ids.
            "_id": new_id(),
            "consumer": self._consumer,
            "event_id": message.event_id,
            "event_type": message.type,
            "aggregate_type": message.aggregate_type,
            "aggregate_id": message.aggregate_id,
            "status": status,
            "reason": reason,
            # As text: a payload may hold what the store cannot, and that may be why it is here.
            "message": msgspec.json.encode(as_it_came(message)).decode(),
            "created_at": self.now,
            "resolved_at": None,
        }
