"""What the endpoints depend on: the open resources of this service in this process."""

from typing import Annotated, cast

from fastapi import Depends, Request
from prometheus_client import Gauge

from processor import repository
from processor.settings import NAME, Settings
from processor.tasks import handler
from shared.app import service_resources
from shared.auth.broker_customers import BrokerCustomers, forgetting
from shared.auth.principals import postgres_directory
from shared.db import Database
from shared.http.valkey import Valkey
from shared.idempotency import IdempotencyMarks
from shared.messaging.backlog import Backlog
from shared.messaging.dead_letters import PostgresDeadLetters

sagas_for_a_person = Gauge("brokage_sagas_need_human", "Sagas in NEEDS_HUMAN")


class ProcessorResources:
    """The database and Valkey, open while the process serves."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.processor_database_url, name=NAME, pool_size=settings.api_pool_size)
        self.valkey = Valkey(settings.redis_url)
        self.marks = IdempotencyMarks(self.valkey)
        self.principals = postgres_directory(self.database)
        self.backlog = Backlog(
            self.database, NAME, settings, also={sagas_for_a_person: repository.count_sagas_for_a_person}
        )
        cache = BrokerCustomers(self.valkey, NAME)
        self.principals = postgres_directory(self.database, cache)
        self.dead_letters = PostgresDeadLetters(
            self.database, consumer=NAME, handler=forgetting(handler(settings), cache)
        )

    def ready(self) -> str | None:
        with self.database.read() as connection:
            return None if repository.has_principals(connection) else "customers have not arrived yet"

    def close(self) -> None:
        self.valkey.close()
        self.backlog.close()
        self.database.close()


async def _resources(request: Request) -> ProcessorResources:
    return cast(ProcessorResources, service_resources(request, NAME))


Resources = Annotated[ProcessorResources, Depends(_resources)]
