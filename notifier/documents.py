"""The notifier's collections and every access to them. Names of fields and indexes: S4, in snake case."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pymongo import ASCENDING, DESCENDING, IndexModel, ReturnDocument
from pymongo.errors import BulkWriteError

from notifier.settings import Settings
from shared.contracts.customers import CustomerState, NotificationPreferencesChanged
from shared.contracts.message import Message
from shared.mongo import Document, MongoDatabase, only_duplicates
from shared.mongo.inbox import inbox_indexes
from shared.mongo.principals import guarded_upsert, principal_indexes

NAME = "notifier"
NOTIFICATIONS = "notifications"
CONTACTS = "recipient_contacts"
PREFERENCES = "recipient_preferences"


class ReadStatus(StrEnum):
    UNREAD = "UNREAD"
    READ = "READ"


@dataclass(frozen=True, slots=True)
class Recipient:
    """A customer as the notifier may reach him. Without a known contact or preference the defaults of customer_service
    hold; `email` is None where there is no address (yet)."""

    customer_id: int
    email: str | None = None
    known: bool = False
    email_enabled: bool = True
    sms_enabled: bool = False
    push_enabled: bool = False
    preferences: dict[str, Any] = field(default_factory=dict)

    def wants(self, event_type: str, category: str) -> bool:
        """Whether this kind of news may leave the platform; what is not named is wanted."""
        return self.preferences.get(event_type) is not False and self.preferences.get(category) is not False


def open_database(settings: Settings, *, pool_size: int, operation_seconds: float | None = None) -> MongoDatabase:
    """The notifier's database; nothing is connected yet."""
    indexes = {
        **inbox_indexes(kept_seconds=settings.processed_events_kept_seconds),
        **principal_indexes(),
        NOTIFICATIONS: _INDEXES,
    }
    return MongoDatabase(
        settings.database_url, NAME, pool_size=pool_size, indexes=indexes, operation_seconds=operation_seconds
    )


# None on `notification_id`: it is the `_id`.
_INDEXES = [
    # The claim of one notification per customer, event and template.
    IndexModel(
        [("customer_id", ASCENDING), ("event_id", ASCENDING), ("template", ASCENDING)],
        name="uq_notifications_event",
        unique=True,
    ),
    IndexModel([("customer_id", ASCENDING), ("created_at", DESCENDING), ("_id", DESCENDING)], name="idx_customer_date"),
    IndexModel([("customer_id", ASCENDING), ("read_status", ASCENDING)], name="idx_customer_read_status"),
    IndexModel(
        [("channels.email.status", ASCENDING), ("channels.email.next_attempt_at", ASCENDING)], name="idx_email_status"
    ),
    IndexModel([("expires_at", ASCENDING)], name="ttl_expires_at", expireAfterSeconds=0),
]


def insert_notifications(database: MongoDatabase, documents: Sequence[Document]) -> None:
    """Store those that are not there yet; one command."""
    try:
        database[NOTIFICATIONS].insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if not only_duplicates(error):
            raise


def apply_contacts(database: MongoDatabase, messages: Iterable[Message[CustomerState]]) -> None:
    requests = [
        request
        for message in messages
        for request in guarded_upsert(
            {
                "_id": str(message.payload.customer_id),
                "email": message.payload.email,
                "version": message.aggregate_version,
            },
            "version",
        )
    ]
    if requests:
        database[CONTACTS].bulk_write(requests)


def apply_preferences(database: MongoDatabase, messages: Iterable[Message[NotificationPreferencesChanged]]) -> None:
    """A collection of its own beside the contacts: the two come in different messages with the same version."""
    requests = [
        request
        for message in messages
        for request in guarded_upsert(
            {
                "_id": message.aggregate_id,
                "email_enabled": message.payload.email_enabled,
                "sms_enabled": message.payload.sms_enabled,
                "push_enabled": message.payload.push_enabled,
                "preferences": message.payload.preferences,
                "version": message.aggregate_version,
            },
            "version",
        )
    ]
    if requests:
        database[PREFERENCES].bulk_write(requests)


def load_recipients(database: MongoDatabase, customer_ids: Iterable[int]) -> dict[int, Recipient]:
    """All of them, known or not; two commands however many they are."""
    ids = sorted({str(customer_id) for customer_id in customer_ids})
    contacts = {row["_id"]: row for row in database[CONTACTS].find({"_id": {"$in": ids}})}
    preferences = {row["_id"]: row for row in database[PREFERENCES].find({"_id": {"$in": ids}})}
    return {int(id): _recipient(id, contacts.get(id), preferences.get(id)) for id in ids}


def _recipient(id: str, contact: Document | None, preferences: Document | None) -> Recipient:
    chosen = {
        name: value
        for name, value in (preferences or {}).items()
        if name not in ("_id", "version") and value is not None
    }
    return Recipient(int(id), contact["email"] if contact else None, contact is not None, **chosen)


def list_notifications(
    database: MongoDatabase, customer_id: int, after: tuple[datetime, str] | None, limit: int
) -> list[Document]:
    """The newest first, after the (created_at, id) of the last one seen."""
    query: Document = {"customer_id": customer_id}
    if after is not None:
        moment, id = after
        query["$or"] = [{"created_at": {"$lt": moment}}, {"created_at": moment, "_id": {"$lt": id}}]
    cursor = database[NOTIFICATIONS].find(query)
    return list(cursor.sort([("created_at", DESCENDING), ("_id", DESCENDING)]).limit(limit))


def mark_read(database: MongoDatabase, customer_id: int, notification_id: str, now: datetime) -> bool:
    """Whether it is his; the time of the first reading stays."""
    mine = {"_id": notification_id, "customer_id": customer_id}
    read = {"read_status": ReadStatus.READ.value, "read_at": now, "updated_at": now}
    changed = database[NOTIFICATIONS].update_one({**mine, "read_status": ReadStatus.UNREAD.value}, {"$set": read})
    return changed.matched_count == 1 or database[NOTIFICATIONS].find_one(mine, {"_id": 1}) is not None


def claim_email(database: MongoDatabase, now: datetime, lease_until: datetime) -> Document | None:
    """The e-mail that is longest due, with its attempt counted before it is made, so that one that kills the process
    counts too."""
    found: Document | None = database[NOTIFICATIONS].find_one_and_update(
        {"channels.email.status": "PENDING", "channels.email.next_attempt_at": {"$lte": now}},
        {"$set": {"channels.email.next_attempt_at": lease_until}, "$inc": {"channels.email.attempts": 1}},
        sort=[("channels.email.next_attempt_at", ASCENDING)],
        return_document=ReturnDocument.AFTER,
    )
    return found


def record_email(database: MongoDatabase, notification: Document, changes: Document, now: datetime) -> None:
    """The outcome of an attempt. One that was sent counts even when its lease had run out; any other outcome only while
    nobody else has claimed the e-mail since."""
    query: Document = {"_id": notification["_id"], "channels.email.status": "PENDING"}
    if changes.get("status") != "SENT":
        query["channels.email.attempts"] = notification["channels"]["email"]["attempts"]
    fields = {f"channels.email.{name}": value for name, value in changes.items()}
    database[NOTIFICATIONS].update_one(query, {"$set": {**fields, "updated_at": now}})
