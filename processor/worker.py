"""The worker process's part of the processor."""

from processor.settings import NAME, Settings
from processor.tasks import handler
from shared.auth.broker_customers import BrokerCustomers, forgetting
from shared.http.valkey import Valkey
from shared.messaging.runtime import Consumer, ServiceWorker, postgres_consumer


def start() -> Consumer:
    settings = Settings()
    cache = BrokerCustomers(Valkey(settings.redis_url), NAME)
    return postgres_consumer(NAME, settings.processor_database_url, settings, forgetting(handler(settings), cache))


worker = ServiceWorker(name=NAME, start=start)
