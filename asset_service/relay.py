"""The relay of asset_service: its outbox, to the broker."""

from collections.abc import Sequence

from asset_service.dependencies import NAME
from asset_service.settings import Settings
from shared.db import Database
from shared.messaging.runtime import Loop, ServiceRelay, outbox_relay


def start() -> Sequence[Loop]:
    settings = Settings()
    database = Database(settings.assets_database_url, name=f"{NAME} relay", pool_size=3)
    return outbox_relay(NAME, database, settings)


relay = ServiceRelay(name=NAME, start=start)
