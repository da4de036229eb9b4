"""Outbox to broker, the sweep after deactivated customers, and the archiver."""

from collections.abc import Sequence

from order_service.service.archiving import keep_archive
from order_service.service.commands import cancel_orders_of_inactive
from order_service.settings import NAME, Settings
from shared.db import Database
from shared.messaging.runtime import Loop, ServiceRelay, Timer, outbox_relay


def start() -> Sequence[Loop]:
    settings = Settings()
    database = Database(settings.orders_database_url, name=f"{NAME} relay", pool_size=3)
    sweep = Timer(
        f"{NAME} inactive customers", settings.inactive_sweep_seconds, lambda: database.run(cancel_orders_of_inactive)
    )
    archiver = Timer(f"{NAME} archive", settings.archive_sweep_seconds, lambda: keep_archive(database, settings))
    return [*outbox_relay(NAME, database, settings), sweep, archiver]


relay = ServiceRelay(name=NAME, start=start)
