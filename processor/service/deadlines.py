"""Answers that do not come: the command goes again, and after a few times a person is asked. Never a silent compensation."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec
import structlog

from processor import repository
from processor.matching.queue_entry import QueueEntry
from processor.repository import Row
from processor.sagas.opening import Opening
from processor.sagas.order_saga import OrderSagaState
from processor.service import commands
from processor.service.advance import RECEIVERS
from processor.service.commands import Facts
from processor.settings import Settings
from processor.states import SagaType
from shared.contracts import Command
from shared.contracts.trades import SettleTrade
from shared.db import Database, UnitOfWork
from shared.faults import fault

log = structlog.get_logger(__name__)
_AT_ONCE = 500
_STRETCH = 10_000
_STRETCHES_MAX = 10
_BEGIN = "00000000-0000-0000-0000-000000000000"
_AWAITED = {
    OrderSagaState.RESERVING: "ReserveAsset",
    OrderSagaState.CONFIRMING: "ConfirmOrder",
    OrderSagaState.REJECTING: "RejectOrder",
    OrderSagaState.RELEASING: "ReleaseReservation",
    OrderSagaState.CANCELING: "MarkOrderCanceled",
    OrderSagaState.EXPIRING: "MarkOrderExpired",
    OrderSagaState.FINISHING: "MarkOrderMatched",
}
"""Which command an order's saga awaits the answer of."""


@dataclass(slots=True)
class Walk:
    """How far the search for overdue sagas has come. Most live ones rest on the book: with a million of them one search is not the
    work of one sweep."""

    after: str = _BEGIN


def resend_overdue(database: Database, settings: Settings, walk: Walk | None = None) -> int:
    """Send the commands of overdue sagas again; how many. One that was resent often enough becomes NEEDS_HUMAN, but a release is
    repeated for ever, because money hangs on it.

    Args:
        walk: where the last call ended, and then where this one did. Without it the search begins anew.
    """
    walk = walk or Walk()
    resent = 0
    for _ in range(_STRETCHES_MAX):
        with database.read() as connection:
            until = repository.end_of_live_sagas(connection, walk.after, _STRETCH)
        after = walk.after
        resent += database.run(lambda unit: _resend_overdue(unit, settings, after, until))  # noqa: B023 - run at once
        walk.after = until or _BEGIN
        if until is None:
            break
    return resent


def _resend_overdue(unit: UnitOfWork, settings: Settings, after: str, until: str | None) -> int:
    rows = repository.overdue_sagas(
        unit.connection, after=after, until=until, answer_seconds=settings.saga_answer_seconds, limit=_AT_ONCE
    )
    if not rows:
        return 0
    fault("deadlines.found")
    given_up = [
        row
        for row in rows
        if row["retry_count"] >= settings.saga_resends_max and row["current_state"] != OrderSagaState.RELEASING
    ]
    for row in given_up:
        log.error("saga needs a person", saga_id=row["saga_id"], state=row["current_state"])
    resent = [row for row in rows if row not in given_up]
    if given_up:
        repository.update_sagas(unit.connection, [_needs_human(row) for row in given_up])
    if resent:
        resend(unit, resent, answer_seconds=settings.saga_answer_seconds)
    return len(resent)


def _needs_human(row: Row) -> dict[str, Any]:
    return {
        "saga_id": row["saga_id"],
        "version": row["version"],
        "steps": 1,
        "current_state": "NEEDS_HUMAN",
        "resume_state": row["current_state"],
        "reason": row["reason"] or f"no answer in {row['current_state']}",
        "awaiting": False,
    }


def resend(unit: UnitOfWork, rows: list[Row], *, answer_seconds: float) -> None:
    """Send the command that each saga (saga_id, saga_type, current_state, version, payload, reason) awaits the answer of."""
    entries = repository.load_entries(unit.connection, [row["saga_id"] for row in rows])
    trades = {row["saga_id"] for row in rows if row["saga_type"] == SagaType.TRADE}
    terms = (
        {row["id"]: _terms(row) for row in repository.find_trades(unit.connection, sorted(trades))} if trades else {}
    )
    updates = []
    for row in rows:
        opening = msgspec.json.decode(row["payload"], type=Opening)
        if row["saga_id"] in trades:
            name, command = "SettleTrade", terms[row["saga_id"]]
        else:
            name, command = _order_command(row, opening, entries.get(row["saga_id"]))
        message = unit.record(
            command,
            aggregate_id=row["saga_id"],
            aggregate_version=row["version"] + 1,
            customer_id=opening.customer_id,
            cause=opening,
        )
        updates.append(
            {
                "saga_id": row["saga_id"],
                "awaiting_batch_id": unit.batch_id(RECEIVERS[name], message),
                "deadline_at": unit.now + timedelta(seconds=answer_seconds),
            }
        )
    repository.resend_sagas(unit.connection, updates)
    fault("deadlines.resent")


def _order_command(row: Row, opening: Opening, entry: QueueEntry | None) -> tuple[str, Command]:
    name = _AWAITED[OrderSagaState(row["current_state"])]
    return name, commands.build(name, Facts(order=opening.payload, reason=row["reason"], entry=entry))


def _terms(trade: Row) -> Command:
    return SettleTrade(**{name: trade[name] for name in SettleTrade.__struct_fields__})
