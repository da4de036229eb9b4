"""The worker process's part of the processor."""

from processor.settings import Settings
from processor.tasks import handler
from shared.messaging.runtime import Consumer, ServiceWorker, postgres_consumer

NAME = "processor"


def start() -> Consumer:
    settings = Settings()
    return postgres_consumer(NAME, settings.processor_database_url, settings, handler(settings))


worker = ServiceWorker(name=NAME, start=start)
