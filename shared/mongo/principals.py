"""The projection of customers in a document service: collection `principals`, guarded by version, and `ended_sessions`."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from pymongo import ASCENDING, IndexModel, UpdateOne

from shared.auth.ended_sessions import ends_in
from shared.auth.principals import CachedDirectory, Principal, latest_customer_states, principal_from_row
from shared.clock import utc_now
from shared.contracts.customers import CustomerState, SessionEnded
from shared.contracts.message import Message
from shared.money import text
from shared.mongo.database import Document, Indexes, MongoDatabase

COLLECTION = "principals"
ENDED_SESSIONS = "ended_sessions"


def principal_indexes() -> Indexes:
    """Those of the projection's collections; an ended session is forgotten when its last access token has run out."""
    return {
        ENDED_SESSIONS: [
            IndexModel([("customer_id", ASCENDING)], name="idx_customer_id"),
            IndexModel([("tokens_until", ASCENDING)], name="ttl_tokens_until", expireAfterSeconds=0),
        ]
    }


class MongoPrincipals(CachedDirectory):
    """Who may act, as this service knows it. `apply` keeps it current; the rest is the directory's."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        super().__init__(self._find_many, load_id=self._find_id)

    def apply(self, messages: Sequence[Message[Any]]) -> None:
        """Bring the collections up to these events, in one command each; a version not newer than the stored one changes
        nothing."""
        ends = [_end(end) for end in ends_in(messages)]
        if ends:
            self._database[ENDED_SESSIONS].bulk_write(ends)
        states = latest_customer_states(messages)
        if states:
            requests = [request for message in states for request in guarded_upsert(_document(message), "version")]
            self._database[COLLECTION].bulk_write(requests)

    def _find_many(self, ids: Collection[int]) -> list[Principal]:
        with self._database.reachable():
            found = list(self._database[COLLECTION].find({"_id": {"$in": [str(number) for number in ids]}}))
            ended = self._ended_sessions(ids)
        return [_principal(document, ended[document["customer_id"]]) for document in found]

    def _ended_sessions(self, ids: Collection[int]) -> dict[int, list[str]]:
        query = {"customer_id": {"$in": list(ids)}, "tokens_until": {"$gt": utc_now()}}
        ended = defaultdict(list)
        for document in self._database[ENDED_SESSIONS].find(query, {"customer_id": 1}):
            ended[document["customer_id"]].append(document["_id"])
        return ended

    def _find_id(self, username: str) -> int | None:
        with self._database.reachable():
            found = self._database[COLLECTION].find_one({"username": username})
        return found["customer_id"] if found else None


def _end(end: SessionEnded) -> UpdateOne:
    fields = {"$set": {"customer_id": end.customer_id}, "$max": {"tokens_until": end.tokens_until}}
    return UpdateOne({"_id": end.session_id}, fields, upsert=True)


def guarded_upsert(document: Document, version: str) -> list[UpdateOne]:
    """Two updates, in this order, that leave `document` stored unless a newer `version` is there.

    One upsert filtered by version would not do: when two race on a missing document, the one that loses the insert is
    refused by the unique key, and that may be the newer one.
    """
    fields = {name: value for name, value in document.items() if name != "_id"}
    return [
        UpdateOne({"_id": document["_id"]}, {"$setOnInsert": fields}, upsert=True),
        UpdateOne({"_id": document["_id"], version: {"$lt": document[version]}}, {"$set": fields}),
    ]


def _principal(document: Document, ended_sessions: Sequence[str]) -> Principal:
    valid_from = datetime.fromisoformat(document["tokens_valid_from"])
    return principal_from_row({**document, "tokens_valid_from": valid_from}, ended_sessions)


def _document(message: Message[CustomerState]) -> Document:
    state = message.payload
    return {
        "_id": str(state.customer_id),
        "customer_id": state.customer_id,
        "username": state.username,
        "role": state.role,
        "tier": state.tier,
        "tier_priority": state.tier_priority,
        "rate_limit": state.rate_limit,
        "fee_rate": text(state.fee_rate),
        "fee_minimum": text(state.fee_minimum),
        "active": state.active,
        # As text: a date of the store would lose the microseconds that decide about a token.
        "tokens_valid_from": state.tokens_valid_from.isoformat(),
        "organization_id": message.organization_id,
        "beneficial_owner_id": state.beneficial_owner_id,
        "brokers": list(state.brokers),
        "version": message.aggregate_version,
    }
