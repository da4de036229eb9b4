"""What the endpoints depend on: the open resources of this service in this process."""

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, cast
from zoneinfo import ZoneInfo

from fastapi import Depends, Request

from order_service import repository
from order_service.group_commit import GroupCommit
from order_service.instruments import InstrumentDirectory, load_instruments
from order_service.repository import Row
from order_service.running_keys import RunningKeys
from order_service.service.lifetime import MarketDay
from order_service.service.placing import NewOrder, Outcome, place_orders
from order_service.settings import NAME, Settings
from order_service.tasks import handle
from order_service.waiting import OrderWaiters
from shared.app import service_resources
from shared.auth.broker_customers import BrokerCustomers, forgetting
from shared.auth.principals import postgres_directory
from shared.db import Database
from shared.db.listening import listen
from shared.http.valkey import Valkey
from shared.messaging.backlog import Backlog
from shared.messaging.dead_letters import PostgresDeadLetters


class OrderResources:
    """The database and what this process keeps of it, open while the process serves."""

    def __init__(self, settings: Settings) -> None:
        self.database = Database(settings.orders_database_url, name=NAME, pool_size=settings.api_pool_size)
        self.valkey = Valkey(settings.redis_url)
        cache = BrokerCustomers(self.valkey, NAME)
        self.principals = postgres_directory(self.database, cache)
        self.dead_letters = PostgresDeadLetters(self.database, consumer=NAME, handler=forgetting(handle, cache))
        self.instruments = InstrumentDirectory(partial(load_instruments, self.database))
        self.market = MarketDay(settings.market_close, ZoneInfo(settings.market_timezone))
        self.backlog = Backlog(self.database, NAME, settings)
        self.running_keys = RunningKeys()
        self.waiters = OrderWaiters(self._find_changed)
        self._closing = threading.Event()
        listening = (self.database.url, repository.CHANGED_CHANNEL, self.waiters.ring, self._closing)
        threading.Thread(target=listen, args=listening, name="orders changed", daemon=True).start()
        self.placing = GroupCommit(
            self._place,
            linger_seconds=settings.place_linger_seconds,
            batch_max=settings.place_batch_max,
            waiting_max=settings.place_waiting_max,
        )

    def ready(self) -> str | None:
        with self.database.read() as connection:
            return None if repository.has_principals(connection) else "customers have not arrived yet"

    def close(self) -> None:
        self._closing.set()
        self.placing.close()
        self.valkey.close()
        self.backlog.close()
        self.database.close()

    def _place(self, orders: Sequence[NewOrder]) -> list[Outcome]:
        return self.database.run(lambda uow: place_orders(uow, orders))

    def _find_changed(self, versions: Mapping[str, int]) -> Mapping[str, Row]:
        with self.database.read() as connection:
            return repository.find_changed_orders(connection, versions)


async def _resources(request: Request) -> OrderResources:
    return cast(OrderResources, service_resources(request, NAME))


Resources = Annotated[OrderResources, Depends(_resources)]
