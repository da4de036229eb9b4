"""Asking for the cancelation of one order."""

from dataclasses import dataclass

from order_service import repository
from order_service.errors import OrderAlreadyFinal
from order_service.repository import Row
from order_service.service.commands import Changes
from order_service.states import OrderStatus
from shared.db import UnitOfWork
from shared.errors import NotFound

_GONE = frozenset({OrderStatus.CANCELED, OrderStatus.EXPIRED})


@dataclass(frozen=True, slots=True)
class Cancelation:
    """The order as it is now; `gone`: it was off the market already."""

    row: Row
    gone: bool


def cancel_order(uow: UnitOfWork, order_id: str) -> Cancelation:
    """PENDING_CANCEL and OrderCancelRequested in one transaction; a repeat changes nothing.

    Raises:
        NotFound: there is no such order.
        OrderAlreadyFinal: it is matched or rejected.
        Conflict: it changed meanwhile; repeat.
    """
    row = repository.find_order(uow.connection, order_id)
    if row is None:
        raise NotFound()
    status = row["final_status"] or row["status"]
    if status in _GONE:
        return Cancelation(row, gone=True)
    if row["final_status"] is not None:
        raise OrderAlreadyFinal(order_id=order_id, order_status=status)
    changes = Changes(uow, {order_id: row})
    changes.request_cancel(order_id, None)
    changes.write()
    return Cancelation(changes.order(order_id), gone=False)
