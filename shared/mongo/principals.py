"""The projection of customers in a document service: collection `principals`, guarded by version."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pymongo import UpdateOne

from shared.auth.principals import CachedDirectory, Principal, latest_customer_states, principal_from_row
from shared.contracts.customers import CustomerState
from shared.contracts.message import Message
from shared.money import text
from shared.mongo.database import Document, MongoDatabase

COLLECTION = "principals"


class MongoPrincipals(CachedDirectory):
    """Who may act, as this service knows it. `apply` keeps it current; the rest is the directory's."""

    def __init__(self, database: MongoDatabase) -> None:
        self._database = database
        super().__init__(self._find, load_id=self._find_id)

    def apply(self, messages: Sequence[Message[Any]]) -> None:
        """Bring the collection up to these events in one command; a version not newer than the stored one changes
        nothing."""
        states = latest_customer_states(messages)
        if states:
            requests = [request for message in states for request in guarded_upsert(_document(message), "version")]
            self._database[COLLECTION].bulk_write(requests)

    def _find(self, customer_id: int) -> Principal | None:
        with self._database.reachable():
            found = self._database[COLLECTION].find_one({"_id": str(customer_id)})
        if found is None:
            return None
        return principal_from_row({**found, "tokens_valid_from": datetime.fromisoformat(found["tokens_valid_from"])})

    def _find_id(self, username: str) -> int | None:
        with self._database.reachable():
            found = self._database[COLLECTION].find_one({"username": username})
        return found["customer_id"] if found else None


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
