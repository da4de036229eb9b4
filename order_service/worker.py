"""The message consumer of order_service."""

from order_service.dependencies import NAME
from order_service.settings import Settings
from order_service.tasks import handle
from shared.messaging.runtime import Consumer, ServiceWorker, postgres_consumer


def start() -> Consumer:
    settings = Settings()
    return postgres_consumer(NAME, settings.orders_database_url, settings, handle)


worker = ServiceWorker(name=NAME, start=start)
