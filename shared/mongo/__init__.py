"""MongoDB as the document services use it: one code path for a real server and for the local one.

House rules (docs/adr): string ids as `_id`, money as strings, idempotency by unique keys, no transactions, no change
streams, aware UTC datetimes in whole milliseconds.
"""

from shared.mongo.database import Document, MongoDatabase, is_duplicate, is_transient, milliseconds, only_duplicates
from shared.mongo.inbox import MongoInboxStore
from shared.mongo.principals import MongoPrincipals

__all__ = [
    "Document",
    "MongoDatabase",
    "MongoInboxStore",
    "MongoPrincipals",
    "is_duplicate",
    "is_transient",
    "milliseconds",
    "only_duplicates",
]
