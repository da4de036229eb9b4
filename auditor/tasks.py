"""The auditor's queue: one consumer over every event."""

from auditor import documents
from auditor.service import Auditor
from auditor.settings import Settings
from auditor.writer import ChainWriter
from shared.messaging.runtime import StoreConsumer
from shared.mongo import MongoDatabase, MongoInboxStore


def open_writer(database: MongoDatabase, settings: Settings) -> ChainWriter:
    return ChainWriter(
        database, lease_seconds=settings.audit_lease_seconds, wait_seconds=settings.audit_lease_wait_seconds
    )


def start_consumer() -> StoreConsumer:
    settings = Settings()
    database = documents.open_database(settings, pool_size=settings.worker_pool_size)
    auditor = Auditor(database, open_writer(database, settings))
    store = MongoInboxStore(database, consumer=documents.NAME, handler=auditor.handle)
    return StoreConsumer(store, settings, database.close)
