"""What order_service knows of instruments."""

from collections.abc import Sequence
from typing import Any

import msgspec

from order_service import repository
from shared.contracts.assets import InstrumentChanged
from shared.contracts.message import Message
from shared.db import UnitOfWork

_FIELDS = ("asset_name", "quote_asset", "size_scale", "price_scale", "quote_scale", "status")


def apply_instrument_events(uow: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    """Bring the table `instruments` up to these events, in one statement. Repeats and late arrivals change nothing."""
    newest: dict[str, Message[InstrumentChanged]] = {}
    for message in messages:
        if isinstance(message.payload, InstrumentChanged):
            known = newest.get(message.payload.asset_name)
            if known is None or known.aggregate_version < message.aggregate_version:
                newest[message.payload.asset_name] = message
    if newest:
        rows = [_row(newest[name]) for name in sorted(newest)]
        repository.upsert_instruments(uow.connection, rows)


def _row(message: Message[InstrumentChanged]) -> dict[str, Any]:
    fields = msgspec.structs.asdict(message.payload)
    return {**{name: fields[name] for name in _FIELDS}, "version": message.aggregate_version}
