"""Messages of order_service: the processor's commands, and the events its projections live on."""

from collections.abc import Sequence
from typing import Any

from order_service.service import commands, projections
from shared.auth.principals import apply_customer_events
from shared.contracts.message import Message
from shared.db import UnitOfWork


def handle(uow: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    """One mixed batch, in at most six statements."""
    apply_customer_events(uow, messages)
    projections.apply_instrument_events(uow, messages)
    commands.apply(uow, messages)
