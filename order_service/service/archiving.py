"""Final orders whose time is over move to the archive, with their histories; months of the archive are deleted if a setting
says so.

Any number may archive at once: a batch locks its orders and passes over those that another has locked, so no order is moved
twice and nobody waits. Nothing needs a leader, and what died in between has moved whole batches or nothing.
"""

import structlog

from order_service import archive_repository
from order_service.repository import Row
from order_service.service.events import record_change
from order_service.settings import Settings
from order_service.states import FINAL, OrderStatus
from order_service.transitions import ARCHIVE, ORDER_MACHINE
from shared.db import Conflict, Context, Database, UnitOfWork

log = structlog.get_logger(__name__)

_REJECTED = frozenset({OrderStatus.REJECTED})


def keep_archive(database: Database, settings: Settings) -> None:
    """What the timer does: archive what is due, a bounded number; delete what is too old, if anything ever is."""
    archive_due_orders(database, settings)
    if settings.archive_kept_months is not None:
        delete_old_months(database, settings.archive_kept_months)


def archive_due_orders(database: Database, settings: Settings) -> int:
    """How many were moved: at most `archive_batches_max` batches, each in a transaction of its own."""
    _make_months(database)
    moved, left = 0, settings.archive_batches_max
    for statuses, seconds in (
        (_REJECTED, settings.archive_rejected_seconds),
        (FINAL - _REJECTED, settings.archive_final_seconds),
    ):
        while left and (count := _archive_batch(database, statuses, seconds, settings.archive_batch_max)):
            moved += count
            left -= 1
    if moved:
        log.info("orders archived", orders=moved)
    return moved


def delete_old_months(database: Database, kept_months: int) -> int:
    """Delete the months of the archive since whose end `kept_months` have passed; how many orders they held."""
    with database.read() as connection:
        names = archive_repository.find_old_months(connection, kept_months)
    deleted = 0
    for name in names:
        # Once: it waits for readers of the archive, and new ones wait for it. The next turn comes anyway.
        count = database.run(
            lambda uow, name=name: archive_repository.delete_month(uow.connection, name),  # type: ignore[misc]
            attempts=1,
        )
        log.warning("month of the archive deleted", month=name, orders=count)
        deleted += count
    return deleted


def _make_months(database: Database) -> None:
    with database.read() as connection:
        missing = archive_repository.find_missing_months(connection)
    if missing:
        database.run(lambda uow: archive_repository.make_months(uow.connection))


def _archive_batch(database: Database, statuses: frozenset[OrderStatus], seconds: float, limit: int) -> int:
    def archive(uow: UnitOfWork) -> int:
        due = archive_repository.lock_due_orders(uow.connection, final_statuses=statuses, seconds=seconds, limit=limit)
        rows = [_record(uow, row) for row in due]
        if rows and archive_repository.archive_orders(uow.connection, rows) != len(rows):
            raise Conflict
        return len(rows)

    return database.run(archive)


def _record(uow: UnitOfWork, row: Row) -> Row:
    """Say that an order is archived; what the archive has to know of that step."""
    transition = ORDER_MACHINE.decide(OrderStatus(row["status"]), ARCHIVE)
    assert transition is not None
    # Orders have nothing to do with each other but the transaction.
    uow.context = Context(organization_id=row["organization_id"])
    after = {**row, "status": transition.target, "version": row["version"] + 1}
    event = record_change(uow, transition.event, row, after, None)
    return {
        "id": row["id"],
        "read_version": row["version"],
        "event_id": event.event_id,
        "actor_role": event.actor.role,
    }
