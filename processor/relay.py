"""The relay process's part of the processor: its outbox, and the sweeps over overdue answers and expired orders."""

from collections.abc import Sequence
from functools import partial

from processor.service.deadlines import Walk, resend_overdue
from processor.service.expiry import expire_orders
from processor.settings import NAME, Settings
from shared.db import Database
from shared.messaging.runtime import Loop, ServiceRelay, Timer, outbox_relay


def start() -> Sequence[Loop]:
    settings = Settings()
    database = Database(settings.processor_database_url, name=f"{NAME} relay", pool_size=3)
    return [
        *outbox_relay(NAME, database, settings),
        Timer("saga deadlines", settings.saga_sweep_seconds, partial(resend_overdue, database, settings, Walk())),
        Timer("order expiry", settings.expiry_sweep_seconds, lambda: expire_orders(database, settings)),
    ]


relay = ServiceRelay(name=NAME, start=start)
