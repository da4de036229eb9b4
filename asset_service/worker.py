"""The worker of asset_service: its queue, into `tasks.handle`."""

from asset_service.dependencies import NAME
from asset_service.settings import Settings
from asset_service.tasks import handle
from shared.messaging.runtime import Consumer, ServiceWorker, postgres_consumer


def start() -> Consumer:
    settings = Settings()
    return postgres_consumer(NAME, settings.assets_database_url, settings, handle)


worker = ServiceWorker(name=NAME, start=start)
