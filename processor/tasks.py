"""What the processor does with a batch of messages."""

from collections.abc import Sequence
from typing import Any

from processor import repository
from processor.service.advance import advance_sagas
from processor.settings import Settings
from shared.auth.principals import apply_customer_events
from shared.contracts import Message
from shared.contracts.assets import InstrumentChanged
from shared.contracts.customers import CUSTOMER
from shared.db import UnitOfWork
from shared.messaging.postgres_inbox import Handler


def handler(settings: Settings) -> Handler:
    """The one handler of the processor's queue."""

    def handle(unit: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
        apply_customer_events(unit, messages)
        repository.apply_instruments(unit.connection, [m for m in messages if isinstance(m.payload, InstrumentChanged)])
        moving = [m for m in messages if m.aggregate_type != CUSTOMER and not isinstance(m.payload, InstrumentChanged)]
        if moving:
            advance_sagas(unit, moving, answer_seconds=settings.saga_answer_seconds)

    return handle
