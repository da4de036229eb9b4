"""Answers move sagas: load what a batch touches, fold its messages in order, write once."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from processor import repository
from processor.matching.queue_entry import QueueEntry
from processor.sagas import order_saga
from processor.sagas.opening import Opening, opening_of
from processor.sagas.order_saga import ORDER_SAGA, OrderSagaState
from processor.sagas.trade_saga import TRADE_SAGA, TradeSagaState
from processor.service import commands
from processor.service.commands import Facts
from processor.states import SagaType, TradeStatus
from shared.contracts import Message
from shared.contracts.assets import AssetReleased, AssetReservationFailed
from shared.contracts.orders import OrderCancelRequested, OrderConfirmed, OrderCreated
from shared.contracts.trades import TradeEvent, TradeSettled, TradeSettlementFailed
from shared.db import UnitOfWork
from shared.faults import fault

BUSTS_MAX = 2
_DECIDES = (OrderCancelRequested, TradeSettled, TradeSettlementFailed)
"""Messages that change an order on the book."""
_LEAVING: dict[StrEnum, str | None] = {OrderSagaState.CLOSING: None, OrderSagaState.LAPSING: commands.EXPIRED}
"""Off the book with trades unsettled: why what the last of them leaves is released (None: a cancel)."""


_KINDS: dict[str, tuple[SagaType, Mapping[str, OrderSagaState | TradeSagaState]]] = {
    SagaType.ORDER: (SagaType.ORDER, {state.value: state for state in OrderSagaState}),
    SagaType.TRADE: (SagaType.TRADE, {state.value: state for state in TradeSagaState}),
}
"""What a saga's row says of its kind and state. Looked up: a batch would call enums some thousand times."""


class UnknownSaga(Exception):
    """An answer to a saga that does not exist: forged, or this database is older than the one that answered."""


@dataclass(slots=True)
class Saga:
    """A saga while a batch is folded. `version` is as read; `steps` counts what this batch did to it."""

    id: str
    type: SagaType
    state: OrderSagaState | TradeSagaState
    version: int = 1
    steps: int = 0
    opening: Opening | None = None
    awaiting_batch_id: str | None = None
    resume_state: str | None = None
    reason: str | None = None


@dataclass(slots=True)
class SagaBatch:
    """What one batch of messages touches, and what it does to it."""

    unit: UnitOfWork
    answer_seconds: float
    sagas: dict[str, Saga] = field(default_factory=dict)
    entries: dict[str, QueueEntry] = field(default_factory=dict)
    joining: dict[str, None] = field(default_factory=dict)
    finished_trades: list[dict[str, Any]] = field(default_factory=list)
    _deadline: datetime = field(init=False)

    def __post_init__(self) -> None:
        self._deadline = self.unit.now + timedelta(seconds=self.answer_seconds)

    # -- load ------------------------------------------------------------------------------------------------------------

    def load(self, messages: Sequence[Message[Any]]) -> None:
        deciding = [message.payload for message in messages if isinstance(message.payload, _DECIDES)]
        if deciding:
            repository.lock_books(self.unit.connection, sorted({payload.asset_name for payload in deciding}))
        ids = {message.aggregate_id for message in messages}
        order_ids = {
            id for message in messages if isinstance(message.payload, TradeEvent) for id in _order_ids(message.payload)
        }
        self._load_sagas(ids | order_ids)
        if deciding:
            self._load_entries(
                order_ids | {m.aggregate_id for m in messages if isinstance(m.payload, OrderCancelRequested)}
            )

    def load_due(self, order_ids: Iterable[str]) -> None:
        """Orders whose time is over, under their instruments' locks."""
        self._load_sagas(order_ids)
        self._load_entries(order_ids)

    def _load_sagas(self, ids: Iterable[str]) -> None:
        for id, kind, state, version, resume_state, reason in repository.load_sagas(self.unit.connection, sorted(ids)):
            type, states = _KINDS[kind]
            self.sagas[id] = Saga(id, type, states[state], version, resume_state=resume_state, reason=reason)

    def _load_entries(self, order_ids: Iterable[str]) -> None:
        self.entries = repository.load_entries(self.unit.connection, sorted(order_ids))

    # -- fold ------------------------------------------------------------------------------------------------------------

    def apply(self, message: Message[Any]) -> None:
        payload = message.payload
        if isinstance(payload, OrderCreated):
            self._open(message)
        elif isinstance(payload, TradeEvent):
            self._trade_answered(message)
        elif isinstance(payload, OrderCancelRequested):
            self._cancel_requested(message)
        elif isinstance(payload, AssetReleased) and payload.reason == commands.EXPIRED:
            self._advance(message.aggregate_id, "AssetReleasedOnExpiry", message)
        else:
            reason = payload.reason if isinstance(payload, AssetReservationFailed) else None
            self._advance(message.aggregate_id, message.type, message, reason=reason)

    def _open(self, message: Message[OrderCreated]) -> None:
        if message.aggregate_id in self.sagas:
            return
        opening = opening_of(message)
        saga = Saga(message.aggregate_id, SagaType.ORDER, OrderSagaState.RESERVING, opening=opening)
        self.sagas[saga.id] = saga
        self._send(saga, "ReserveAsset", message, Facts(order=opening.payload), message.customer_id)

    def _cancel_requested(self, message: Message[OrderCancelRequested]) -> None:
        entry = self.entries.get(message.aggregate_id)
        settling = entry is not None and entry.in_settlement_size > 0
        moved = self._advance(
            message.aggregate_id, "CancelRequestedWhileSettling" if settling else "OrderCancelRequested", message
        )
        if moved:
            self.joining.pop(message.aggregate_id, None)
            if entry is not None:
                entry.take_off()

    def expire(self, order_id: str, opening: Opening) -> bool:
        """Take an order whose time is over off the book; False when it has left by itself.

        Args:
            opening: what began its saga, with whom the end of its time is to be put down to as its actor.
        """
        entry = self.entries.get(order_id)
        if entry is None or not entry.on_book:
            return False
        name = "TimeOverWhileSettling" if entry.in_settlement_size > 0 else "TimeOver"
        if not self._advance(order_id, name, opening, reason=commands.EXPIRED):
            return False
        entry.take_off()
        return True

    def _trade_answered(self, message: Message[Any]) -> None:
        """A trade settled or busted: its saga ends, and each side's order goes on. A repeated answer changes nothing."""
        trade = self._saga(message.aggregate_id)
        if not isinstance(trade.state, TradeSagaState):
            raise UnknownSaga(f"{trade.id} is no trade's")
        transition = TRADE_SAGA.decide(trade.state, message.type)
        if transition is None:
            return
        trade.state = transition.target
        trade.steps += 1
        payload = message.payload
        settled = isinstance(payload, TradeSettled)
        self.finished_trades.append(
            {
                "id": trade.id,
                "status": TradeStatus.SETTLED if settled else TradeStatus.BUSTED,
                "buyer_fee": payload.buyer_fee if settled else None,
                "seller_fee": payload.seller_fee if settled else None,
                "bust_reason": None if settled else payload.reason,
            }
        )
        for order_id in _order_ids(payload):
            entry = self.entries.get(order_id)
            if entry is None:
                raise UnknownSaga(f"order {order_id} of trade {trade.id} is not in the queue")
            if settled:
                self._fill_settled(entry, message, order_id == payload.buy_order_id)
            else:
                self._fill_busted(entry, message)

    def _fill_settled(self, entry: QueueEntry, message: Message[TradeSettled], is_buyer: bool) -> None:
        payload = message.payload
        entry.settle(payload.size, payload.notional, payload.buyer_fee if is_buyer else payload.seller_fee)
        state = self._saga(entry.id).state
        if entry.filled_size == entry.size:
            self._advance(entry.id, "LastFillSettled", message)
        elif state in _LEAVING and entry.in_settlement_size == 0:
            self._advance(entry.id, "LastOpenFillSettled", message, reason=_LEAVING[state])
        else:
            self._advance(entry.id, "FillSettled", message)

    def _fill_busted(self, entry: QueueEntry, message: Message[TradeSettlementFailed]) -> None:
        entry.bust(message.payload.size)
        state = self._saga(entry.id).state
        if state in _LEAVING and entry.in_settlement_size == 0:
            # The release that follows is a cancel's, or of an order whose time was over; why this trade was busted stands on the
            # trade.
            self._advance(entry.id, "LastOpenFillBusted", message, reason=_LEAVING[state])
        else:
            name = "FillBustedAgain" if entry.bust_count >= BUSTS_MAX else "FillBusted"
            self._advance(entry.id, name, message, reason=f"trade {message.aggregate_id}: {message.payload.reason}")
        if self._saga(entry.id).state is OrderSagaState.RESTING:
            entry.put_back()
        else:
            entry.take_off()

    def _advance(self, order_id: str, name: str, message: Message[Any] | Opening, *, reason: str | None = None) -> bool:
        """Move an order's saga by its table and send what follows; False when the message was late or repeated.

        One that waits for a person moves by the state it was stuck in: a cancel must not be forgotten, and an answer that comes
        after all ends the wait. What leaves it in that state leaves it with the person.
        """
        saga = self._saga(order_id)
        stuck = saga.state is OrderSagaState.NEEDS_HUMAN
        state = OrderSagaState(saga.resume_state) if stuck and saga.resume_state else saga.state
        if not isinstance(state, OrderSagaState):
            raise UnknownSaga(f"{saga.id} is no order's")
        transition = ORDER_SAGA.decide(state, name)
        if transition is None:
            return False
        entry = self.entries.get(order_id)
        target = OrderSagaState.NEEDS_HUMAN if stuck and transition.target is state else transition.target
        waits = target is OrderSagaState.NEEDS_HUMAN
        saga.resume_state = state.value if waits else None
        saga.reason = saga.reason if waits and reason is None else reason
        saga.state = target
        saga.steps += 1
        saga.awaiting_batch_id = None
        for command in transition.commands:
            customer_id = entry.customer_id if entry else message.customer_id
            self._send(saga, command, message, Facts(reason=reason, entry=entry), customer_id)
        if isinstance(message.payload, OrderConfirmed):
            self.joining[order_id] = None
        return True

    def _send(
        self, saga: Saga, command: str, cause: Message[Any] | Opening, facts: Facts, customer_id: int | None
    ) -> None:
        payload = commands.build(command, facts)
        message = self.unit.record(
            payload,
            aggregate_id=saga.id,
            aggregate_version=saga.version + saga.steps,
            customer_id=customer_id,
            cause=cause,
        )
        saga.awaiting_batch_id = self.unit.batch_id(RECEIVERS[command], message)

    def _saga(self, saga_id: str) -> Saga:
        saga = self.sagas.get(saga_id)
        if saga is None:
            raise UnknownSaga(saga_id)
        return saga

    # -- write -----------------------------------------------------------------------------------------------------------

    def write(self) -> None:
        connection = self.unit.connection
        opened = [self._opened_row(saga) for saga in self.sagas.values() if saga.opening]
        moved = [self._moved_row(saga) for saga in self.sagas.values() if saga.steps and not saga.opening]
        ended = [saga.id for saga in self.sagas.values() if saga.steps and saga.state in order_saga.ENDED]
        changed = [entry for entry in self.entries.values() if entry.changed]
        if opened:
            repository.insert_sagas(connection, opened)
        if moved:
            repository.update_sagas(connection, moved)
        fault("sagas.written")
        if self.joining:
            repository.join_queue(connection, list(self.joining))
        if changed:
            repository.update_queue(connection, changed)
        if ended:
            repository.leave_queue(connection, ended)
        if self.finished_trades:
            repository.finish_trades(connection, self.finished_trades)
        fault("sagas.queued")

    def _opened_row(self, saga: Saga) -> dict[str, Any]:
        return {
            "saga_id": saga.id,
            "saga_type": saga.type,
            "current_state": saga.state,
            "payload": saga.opening,
            "awaiting_batch_id": saga.awaiting_batch_id,
            "deadline_at": self._deadline,
        }

    def _moved_row(self, saga: Saga) -> dict[str, Any]:
        awaiting = awaits_answer(saga.state)
        return {
            "saga_id": saga.id,
            "version": saga.version,
            "steps": saga.steps,
            "current_state": saga.state,
            "resume_state": saga.resume_state,
            "reason": saga.reason,
            "awaiting": awaiting,
            "awaiting_batch_id": saga.awaiting_batch_id if awaiting else None,
            "deadline_at": self._deadline if awaiting else None,
        }


RECEIVERS = {
    "ReserveAsset": "asset_service",
    "ReleaseReservation": "asset_service",
    "SettleTrade": "asset_service",
    "ConfirmOrder": "order_service",
    "RejectOrder": "order_service",
    "MarkOrderMatched": "order_service",
    "MarkOrderPartiallyMatched": "order_service",
    "MarkOrderCanceled": "order_service",
    "MarkOrderExpired": "order_service",
}


_AWAITS_NOTHING = order_saga.ENDED | order_saga.RESTING | {OrderSagaState.NEEDS_HUMAN}


def awaits_answer(state: OrderSagaState | TradeSagaState) -> bool:
    """Whether a saga in `state` needs a deadline."""
    if isinstance(state, TradeSagaState):
        return state is TradeSagaState.SETTLING
    return state not in _AWAITS_NOTHING


def advance_sagas(unit: UnitOfWork, messages: Sequence[Message[Any]], *, answer_seconds: float) -> None:
    """Move the sagas that `messages` speak to, with a fixed number of statements, whatever their number.

    Raises:
        UnknownSaga, InvalidTransition: a message that cannot be; the inbox parks it.
    """
    batch = SagaBatch(unit, answer_seconds)
    batch.load(messages)
    fault("sagas.loaded")
    for message in messages:
        batch.apply(message)
    fault("sagas.folded")
    batch.write()


def _order_ids(payload: TradeEvent) -> Iterable[str]:
    return [order_id for order_id in (payload.buy_order_id, payload.sell_order_id) if order_id is not None]
