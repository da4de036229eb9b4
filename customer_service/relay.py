"""Outbox to broker, and forgetting sessions that ended."""

from collections.abc import Sequence

from customer_service import repository
from customer_service.settings import NAME, Settings
from shared.db import Database
from shared.messaging.runtime import Loop, ServiceRelay, Timer, outbox_relay

_FORGET_SECONDS = 60.0


def start() -> Sequence[Loop]:
    settings = Settings()
    database = Database(settings.customers_database_url, name=f"{NAME} relay", pool_size=3)

    def forget() -> None:
        database.run(lambda uow: repository.delete_expired_tokens(uow.connection))

    return [*outbox_relay(NAME, database, settings), Timer(f"{NAME} ended sessions", _FORGET_SECONDS, forget)]


relay = ServiceRelay(name=NAME, start=start)
