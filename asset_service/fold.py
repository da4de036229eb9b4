"""A batch of commands over a book, in order. Pure: the same answers whatever the batches."""

import decimal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from asset_service.book import Book
from asset_service.reservations import release, reserve
from asset_service.settlement import settle
from shared import money
from shared.contracts.assets import ReleaseReservation, ReserveAsset
from shared.contracts.message import Event, Message
from shared.contracts.trades import SettleTrade

COMMANDS = (ReserveAsset, ReleaseReservation, SettleTrade)


class Said(NamedTuple):
    """An event to record. `repeated`: it was recorded before, and the audit trail needs no second one."""

    payload: Event
    aggregate_id: str
    aggregate_version: int
    customer_id: int | None
    cause: Message[Any]
    repeated: bool = False


def fold(book: Book, messages: Sequence[Message[Any]]) -> list[Said]:
    """Apply each command to the book; what there is to say, in order. Messages of other types are passed over."""
    with decimal.localcontext(money.EXACT):
        return [said for message in messages if isinstance(message.payload, COMMANDS) for said in _apply(book, message)]


def _apply(book: Book, message: Message[Any]) -> Iterator[Said]:
    command, subject = message.payload, message.aggregate_id
    if isinstance(command, SettleTrade):
        answer = settle(book, subject, message.organization_id, command)
    else:
        assert message.customer_id is not None, "commands about reservations travel by customer"
        if isinstance(command, ReserveAsset):
            answer = reserve(book, subject, message.customer_id, message.organization_id, command)
        else:
            answer = release(book, subject, message.customer_id, message.organization_id, command)
    yield Said(
        answer.payload, subject, message.aggregate_version, message.customer_id, cause=message, repeated=answer.repeated
    )
    for asset, event in book.low_balances():
        yield Said(
            event, f"{asset.customer_id}:{asset.asset_name}", asset.next_version(), asset.customer_id, cause=message
        )
