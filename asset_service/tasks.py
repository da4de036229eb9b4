"""What asset_service takes from its queue: the processor's commands and customer_service's events."""

from collections.abc import Sequence
from typing import Any

from asset_service.service import commands
from shared.auth.principals import apply_customer_events
from shared.contracts.message import Message
from shared.db import UnitOfWork


def handle(uow: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    """One transaction over a mixed batch. Customers first: who was deactivated in this batch reserves nothing in it."""
    apply_customer_events(uow, messages)
    commands.execute(uow, messages)
