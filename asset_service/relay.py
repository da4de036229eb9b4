"""The relay of asset_service: its outbox, to the broker, and the alarm over reservations that nobody releases."""

from collections.abc import Sequence

from asset_service.service.overdue import report_overdue
from asset_service.settings import NAME, Settings
from shared.db import Database
from shared.messaging.runtime import Loop, ServiceRelay, Timer, outbox_relay


def start() -> Sequence[Loop]:
    settings = Settings()
    database = Database(settings.assets_database_url, name=f"{NAME} relay", pool_size=3)
    overdue = Timer(
        f"{NAME} overdue reservations", settings.reservation_sweep_seconds, lambda: report_overdue(database, settings)
    )
    return [*outbox_relay(NAME, database, settings), overdue]


relay = ServiceRelay(name=NAME, start=start)
