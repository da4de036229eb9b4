"""What the processor commands, and what cancels orders: a fold over a mixed batch, read and written set-based."""

from collections.abc import Sequence
from typing import Any

from order_service import repository
from order_service.errors import InvalidFill, UnknownOrder
from order_service.repository import Row
from order_service.service.events import record_change
from order_service.states import FINAL, OrderStatus
from order_service.transitions import ANSWERED_AGAIN, ORDER_MACHINE, REQUEST_CANCEL
from shared import money
from shared.contracts.customers import CustomerDeactivated
from shared.contracts.message import Command, Message
from shared.contracts.orders import MarkOrderFilled, MarkOrderMatched, RejectOrder
from shared.db import UnitOfWork
from shared.faults import fault

CANCELS_MAX = 500
"""How many orders of deactivated customers one batch cancels; the sweep goes on with the rest."""


def apply(uow: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    """Apply commands and deactivations in their order. Customers' events must be in the projection by then.

    Raises:
        UnknownOrder, InvalidFill, InvalidTransition: a bug or a forged message; its event will be parked.
        Conflict: an order changed meanwhile; repeat.
    """
    commands = [message for message in messages if isinstance(message.payload, Command)]
    leavers = {m.payload.customer_id for m in messages if isinstance(m.payload, CustomerDeactivated)}
    orders: dict[str, Row] = {}
    if commands:
        named = {message.aggregate_id for message in commands}
        orders.update(repository.find_orders(uow.connection, named, repository.CHANGE_COLUMNS))
    to_cancel = repository.find_orders_to_cancel(uow.connection, leavers, CANCELS_MAX) if leavers else []
    for row in to_cancel:
        orders.setdefault(row["id"], row)
    fault("order_service.apply.loaded")
    changes = Changes(uow, orders)
    for message in messages:
        if isinstance(message.payload, Command):
            changes.command(message)
        elif isinstance(message.payload, CustomerDeactivated):
            left = message.payload.customer_id
            for row in to_cancel:
                if row["customer_id"] == left:
                    changes.request_cancel(row["id"], message)
    changes.write()


def cancel_orders_of_inactive(uow: UnitOfWork) -> int:
    """Ask for the cancelation of open orders whose customers are deactivated; how many, at most `CANCELS_MAX`.

    Catches what the event itself could not: more orders than one batch takes, and orders accepted by a process that
    had not heard of the deactivation yet.
    """
    rows = repository.find_orders_to_cancel(uow.connection, None, CANCELS_MAX)
    changes = Changes(uow, {row["id"]: row for row in rows})
    for row in rows:
        changes.request_cancel(row["id"], None)
    changes.write()
    return len(rows)


class Changes:
    """Orders as they were read, folded over messages, to be written at once."""

    def __init__(self, uow: UnitOfWork, orders: dict[str, Row]) -> None:
        self._uow = uow
        self._orders = orders
        self._read_versions = {order_id: row["version"] for order_id, row in orders.items()}
        self._history: list[Row] = []

    def order(self, order_id: str) -> Row:
        return self._orders[order_id]

    def command(self, message: Message[Any]) -> None:
        if message.aggregate_id not in self._orders:
            raise UnknownOrder(message.aggregate_id)
        self._step(message.aggregate_id, message.type, message)

    def request_cancel(self, order_id: str, cause: Message[Any] | None) -> None:
        self._step(order_id, REQUEST_CANCEL, cause)

    def write(self) -> None:
        """Write what changed, if anything did."""
        changed = [_stored(row, self._read_versions[row["id"]]) for row in self._orders.values()]
        changed = [row for row in changed if row["version"] != row["read_version"]]
        if changed:
            # In one order in all processes, so that two batches cannot deadlock.
            changed.sort(key=lambda row: row["id"])
            at = repository.update_orders(self._uow.connection, orders=changed, history=self._history)
            for row in changed:
                self._orders[row["id"]]["updated_at"] = at
            fault("order_service.apply.written")

    def _step(self, order_id: str, name: str, message: Message[Any] | None) -> None:
        before = self._orders[order_id]
        status = OrderStatus(before["status"])
        transition = ORDER_MACHINE.decide(status, name)
        if transition is None:
            again = ANSWERED_AGAIN.get((OrderStatus(before["final_status"] or status), name))
            if again is not None:
                record_change(self._uow, again, None, before, message)
            return
        detail = _detail(before, message)
        if detail is None:
            return
        row = {**before, **detail, "status": transition.target, "version": before["version"] + len(transition.path)}
        if transition.target in FINAL:
            row["final_status"] = transition.target
        self._orders[order_id] = row
        event = record_change(self._uow, transition.event, before, row, message)
        for number, entered in enumerate(transition.path, start=1):
            last = number == len(transition.path)
            self._history.append(
                {
                    "order_id": order_id,
                    "seq": before["version"] + number + 1,
                    "status": entered,
                    "event_id": event.event_id if last else None,
                    "actor_id": event.actor.id,
                    "actor_role": event.actor.role,
                    "detail": _told(detail) if last and detail else None,
                }
            )


def _detail(row: Row, message: Message[Any] | None) -> Row | None:
    """What else a message changes in an order; None when its totals are already in."""
    payload = message.payload if message else None
    if isinstance(payload, RejectOrder):
        return {"rejection_reason": payload.rejection_reason}
    if not isinstance(payload, MarkOrderFilled):
        return {}
    whole = isinstance(payload, MarkOrderMatched)
    if payload.filled_size > row["size"] or whole != (payload.filled_size == row["size"]):
        raise InvalidFill(row["id"])
    if payload.filled_size <= row["filled_size"]:
        return None
    return {
        "filled_size": payload.filled_size,
        "filled_notional": payload.filled_notional,
        "fee_amount": payload.fee_amount,
    }


def _told(detail: Row) -> Row:
    return {name: value if isinstance(value, str) else money.text(value) for name, value in detail.items()}


def _stored(row: Row, read_version: int) -> Row:
    names = (
        "id",
        "version",
        "status",
        "final_status",
        "rejection_reason",
        "filled_size",
        "filled_notional",
        "fee_amount",
    )
    return {**{name: row[name] for name in names}, "read_version": read_version}
