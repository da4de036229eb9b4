"""What the endpoints depend on: the open resources of this service in this process."""

from functools import partial
from typing import Annotated, cast

from fastapi import Depends, Request
from prometheus_client import Gauge

from asset_service import repository
from asset_service.settings import NAME, Settings
from asset_service.tasks import handle
from shared.app import service_resources
from shared.auth.broker_customers import BrokerCustomers, forgetting
from shared.auth.key_set import configured_key_set
from shared.auth.principals import postgres_directory
from shared.db import Database
from shared.http.valkey import Valkey
from shared.idempotency import IdempotencyMarks
from shared.messaging.backlog import Backlog
from shared.messaging.dead_letters import PostgresDeadLetters

overdue_reservations = Gauge("brokage_reservations_overdue", "Active reservations of orders whose time is long over")


class AssetResources:
    """The database and Valkey, open while the process serves."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.assets_database_url, name=NAME, pool_size=settings.api_pool_size)
        self.valkey = Valkey(settings.redis_url)
        self.marks = IdempotencyMarks(self.valkey)
        cache = BrokerCustomers(self.valkey, NAME)
        self.principals = postgres_directory(self.database, cache)
        self.keys = configured_key_set(settings.jwks_url, settings.key_dir)
        self.backlog = Backlog(
            self.database,
            NAME,
            settings,
            also={
                overdue_reservations: partial(
                    repository.count_overdue_reservations, grace_seconds=settings.reservation_grace_seconds
                )
            },
        )
        self.dead_letters = PostgresDeadLetters(self.database, consumer=NAME, handler=forgetting(handle, cache))

    def ready(self) -> str | None:
        with self.database.read() as connection:
            return None if repository.has_principals(connection) else "customers have not arrived yet"

    def close(self) -> None:
        self.valkey.close()
        self.backlog.close()
        self.database.close()


async def _resources(request: Request) -> AssetResources:
    return cast(AssetResources, service_resources(request, NAME))


Resources = Annotated[AssetResources, Depends(_resources)]
