"""A batch of the processor's commands: load what it touches, fold it in order, write it. At most nine statements, however
many commands."""

from collections.abc import Iterator, Sequence
from typing import Any

from asset_service import repository
from asset_service.book import AssetKey, Book
from asset_service.fold import COMMANDS, fold
from asset_service.reservations import blocked_asset
from shared.contracts.assets import ReserveAsset
from shared.contracts.message import Message
from shared.contracts.trades import SettleTrade
from shared.db import UnitOfWork
from shared.faults import fault

_REPEAT_READERS = ("processor",)
"""A repeated answer is for him who asked again; to the audit trail it would be a second fact."""


def execute(uow: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    """Reserve, release and settle, and record the answers. Refusals are answers; nothing is raised for them.

    Raises:
        Conflict: a row was changed by somebody who does not hold its partition; the transaction must be repeated.
    """
    commands = [message for message in messages if isinstance(message.payload, COMMANDS)]
    if not commands:
        return
    repository.lock_partitions(uow.connection, _customers(commands))
    fault("asset_service.locked")
    book = _load(uow, commands)
    answers = fold(book, commands)
    fault("asset_service.folded")
    repository.store(uow.connection, book)
    fault("asset_service.stored")
    for said in answers:
        uow.record(
            said.payload,
            aggregate_id=said.aggregate_id,
            aggregate_version=said.aggregate_version,
            customer_id=said.customer_id,
            cause=said.cause,
            readers=_REPEAT_READERS if said.repeated else None,
        )


def _load(uow: UnitOfWork, commands: Sequence[Message[Any]]) -> Book:
    book = Book()
    orders = sorted({order_id for message in commands for order_id in _orders(message)})
    if orders:
        repository.load_reservations(uow.connection, book, orders)
    trades = sorted({message.aggregate_id for message in commands if isinstance(message.payload, SettleTrade)})
    if trades:
        repository.load_settlements(uow.connection, book, trades)
    keys = {key for message in commands for key in _asset_keys(message)}
    # A release does not say of what; its reservation does.
    keys |= {(each.customer_id, each.asset_name) for each in book.reservations.values() if each.asset_name is not None}
    instruments = {message.payload.asset_name for message in commands if isinstance(message.payload, ReserveAsset)}
    if instruments:
        repository.load_assets_and_terms(uow.connection, book, keys, instruments)
    elif keys:
        repository.load_assets(uow.connection, book, keys)
    return book


def _customers(commands: Sequence[Message[Any]]) -> Iterator[int]:
    for message in commands:
        if isinstance(message.payload, SettleTrade):
            ids = (message.payload.buyer_id, message.payload.seller_id)
        else:
            ids = (message.customer_id, None)
        yield from (customer_id for customer_id in ids if customer_id is not None)


def _orders(message: Message[Any]) -> Iterator[str]:
    command = message.payload
    ids = (command.buy_order_id, command.sell_order_id) if isinstance(command, SettleTrade) else (message.aggregate_id,)
    yield from (order_id for order_id in ids if order_id is not None)


def _asset_keys(message: Message[Any]) -> Iterator[AssetKey]:
    command = message.payload
    if isinstance(command, SettleTrade):
        for owner in (command.buyer_id, command.seller_id):
            if owner is not None:
                yield (owner, command.asset_name)
                yield (owner, command.quote_asset)
    elif isinstance(command, ReserveAsset) and message.customer_id is not None:
        yield (message.customer_id, blocked_asset(command))
