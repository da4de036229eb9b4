"""Reservations of orders whose time is over, which nobody has released: an alarm. Releasing is the processor's, because only it
knows whether a trade of the order is still to be settled."""

import structlog

from asset_service import repository
from asset_service.settings import Settings
from shared.db import Database

log = structlog.get_logger(__name__)
_NAMED_MAX = 20


def report_overdue(database: Database, settings: Settings) -> int:
    """Log what is overdue, the first few by name; how many."""
    grace = settings.reservation_grace_seconds
    with database.read() as connection:
        count = repository.count_overdue_reservations(connection, grace_seconds=grace)
        first = repository.list_overdue_reservations(connection, grace_seconds=grace, limit=_NAMED_MAX) if count else []
    if count:
        log.error("reservations overdue", count=count, order_ids=[row["order_id"] for row in first])
    return count
