"""Dead letters of a service on MongoDB. Without transactions: handled first, resolved after; the handler passes over repeats."""

from collections.abc import Callable
from typing import Any

import msgspec
from pymongo import ASCENDING

from shared.clock import utc_now
from shared.contracts.message import Message, contract_of
from shared.contracts.system import AdminActed
from shared.db.engine import DatabaseUnavailable
from shared.db.unit_of_work import Context
from shared.errors import NotFound
from shared.ids import new_id
from shared.messaging.dead_letters import EVENTS_MAX, DeadLetterFailedAgain, Row, decode
from shared.mongo.database import Document, MongoDatabase, is_transient
from shared.mongo.inbox import DEAD_LETTERS, Handler


class MongoDeadLetters:
    """Those of `consumer`. What is held back in the very moment of a requeue may stay behind; it is listed, and a requeue of its
    own lets it go. `record` puts what an admin does on record before it is done."""

    def __init__(
        self,
        database: MongoDatabase,
        *,
        consumer: str,
        handler: Handler,
        record: Callable[[Message[AdminActed]], None] | None = None,
    ) -> None:
        self._database = database
        self._consumer = consumer
        self._handler = handler
        self._record = record

    def list_open(self, *, after: str | None, limit: int) -> list[Row]:
        query: Document = {"consumer": self._consumer, "resolved_at": None}
        if after is not None:
            query["_id"] = {"$gt": after}
        with self._database.reachable():
            found = self._database[DEAD_LETTERS].find(query).sort("_id", ASCENDING).limit(limit)
            return [_row(document) for document in found]

    def show(self, letter_id: str) -> tuple[Row, list[Row]]:
        letters = self._database[DEAD_LETTERS]
        with self._database.reachable():
            letter = letters.find_one({"_id": letter_id, "consumer": self._consumer})
            if letter is None:
                raise NotFound()
            query = {"consumer": self._consumer, "aggregate_id": letter["aggregate_id"], "resolved_at": None}
            return _row(letter), [_row(found) for found in letters.find(query).sort("_id", ASCENDING).limit(EVENTS_MAX)]

    def requeue(self, letter_id: str, context: Context) -> Row:
        with self._database.reachable():
            letter = self._database[DEAD_LETTERS].find_one({"_id": letter_id, "consumer": self._consumer})
            if letter is None:
                raise NotFound()
            row = _row(letter)
            if letter["resolved_at"] is not None:
                return row
            if self._record is not None:
                self._record(self._act(letter, context))
            self._requeue(letter, context)
        return {**row, "status": "REQUEUED"}

    def _act(self, letter: Document, context: Context) -> Message[AdminActed]:
        act = AdminActed(
            action="requeue_dead_letter", subject={"service": self._consumer, "event_id": letter["event_id"]}
        )
        known = contract_of(act)
        return Message(
            event_id=new_id(),
            type=known.name,
            occurred_at=utc_now(),
            aggregate_type=known.aggregate_type,
            aggregate_id=letter["_id"],
            organization_id=context.organization_id,
            actor=context.actor,
            correlation_id=context.correlation_id,
            payload=act,
        )

    def _requeue(self, letter: Document, context: Context) -> None:
        # Again after each turn: events may have been held back while these were handled.
        query = {"consumer": self._consumer, "aggregate_id": letter["aggregate_id"], "resolved_at": None}
        while found := list(self._database[DEAD_LETTERS].find(query).sort("_id", ASCENDING).limit(EVENTS_MAX)):
            self._handle_again(letter["event_id"], found)
            resolved = {"status": "REQUEUED", "resolved_at": utc_now(), "requeued_by": context.actor.id}
            self._database[DEAD_LETTERS].update_many(
                {"_id": {"$in": [document["_id"] for document in found]}}, {"$set": resolved}
            )

    def _handle_again(self, event_id: str, found: list[Document]) -> None:
        try:
            self._handler(decode([document["message"] for document in found]))
        except Exception as error:
            if is_transient(error) or isinstance(error, DatabaseUnavailable):
                raise
            raise DeadLetterFailedAgain(event_id, error) from error


def _row(document: Document) -> dict[str, Any]:
    return {**document, "id": document["_id"], "message": msgspec.json.decode(document["message"])}
