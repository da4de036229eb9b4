"""The notifier's queue: one consumer over all events it reads."""

from notifier import documents
from notifier.service import Notifier
from notifier.settings import Settings
from shared.messaging.runtime import StoreConsumer
from shared.mongo import MongoInboxStore


def start_consumer() -> StoreConsumer:
    settings = Settings()
    database = documents.open_database(settings, pool_size=settings.worker_pool_size)
    notifier = Notifier(database, settings)
    store = MongoInboxStore(database, consumer=documents.NAME, handler=notifier.handle)
    return StoreConsumer(store, settings, database.close)
