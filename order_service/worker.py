"""The message consumer of order_service."""

from order_service.settings import NAME, Settings
from order_service.tasks import handle
from shared.auth.broker_customers import BrokerCustomers, forgetting
from shared.http.valkey import Valkey
from shared.messaging.runtime import Consumer, ServiceWorker, postgres_consumer


def start() -> Consumer:
    settings = Settings()
    cache = BrokerCustomers(Valkey(settings.redis_url), NAME)
    return postgres_consumer(NAME, settings.orders_database_url, settings, forgetting(handle, cache))


worker = ServiceWorker(name=NAME, start=start)
