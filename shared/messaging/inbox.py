"""The consumer's side: each batch has its effect exactly once, whatever the broker does.

`Inbox` decides; an `InboxStore` keeps what it decided (`postgres_inbox.py`, `shared/mongo/`, and a model in the tests). The claim
on a batch is an insert in the transaction of its effect. A batch that fails is split down to the event that fails; an event that
failed three times is parked, and later events of its aggregate are held behind it.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from shared.contracts.message import Message, decode_messages
from shared.faults import fault
from shared.messaging.delivery import Acknowledgement, Batch, Delivery, Outcome

log = structlog.get_logger(__name__)
T = TypeVar("T")
_REASON_MAX = 500


class State(StrEnum):
    DONE = "DONE"
    SPLIT = "SPLIT"


class Poison(Exception):
    """An event that must be parked without being tried: it is too old, or was tried too often."""


class InboxTransaction(Protocol):
    """What can be done in one transaction of the consumer's store."""

    now: datetime

    def claim(self, ids: Sequence[str], *, single: bool) -> set[str]:
        """Insert `ids` as DONE and return those that this transaction now owns.

        A concurrent claim of the same id waits for the first to end. With `single` (events of a split batch) a row in state SPLIT
        becomes DONE and is owned; without, it is left alone.
        """

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        """The states of those ids that have a row."""

    def mark_split(self, ids: Sequence[str]) -> None:
        """Insert `ids` as SPLIT where there is no row yet."""

    def finish(self, batch_id: str) -> None:
        """A split batch is DONE."""

    def count_attempt(self, event_id: str) -> int:
        """One more attempt on a single event; how many that makes."""

    def blocked(self) -> set[str]:
        """Aggregates with a parked or held event: later events of theirs wait."""

    def park(self, message: Message[Any], reason: str) -> None: ...

    def hold(self, messages: Sequence[Message[Any]]) -> None: ...

    def handle(self, messages: Sequence[Message[Any]]) -> None:
        """Run the service's handler in this transaction."""


class InboxStore(Protocol):
    def transaction(self, work: Callable[[InboxTransaction], T]) -> T:
        """Do `work` and commit. Conflicts and lost connections repeat it, bounded.

        Raises:
            Unavailable: it did not get through for reasons that pass. Anything else `work` raised.
        """


class Unavailable(Exception):
    """The store cannot be reached now. The delivery is not acknowledged; its source sends it again."""


class Inbox:
    """Receives the deliveries of one consumer.

    Args:
        attempts_max: how often one event, or a whole batch, is tried.
        stale_after: older events are parked as STALE, because the record of what was processed is kept only a little longer.
    """

    # Of the whole process: counted attempts take turns, else an event that kills the process uses up the attempts of those in
    # work beside it, and they are parked with it.
    _alone: AbstractContextManager[Any] = threading.Lock()

    def __init__(
        self, store: InboxStore, *, attempts_max: int = 3, stale_after: timedelta = timedelta(days=30)
    ) -> None:
        self._store = store
        self._attempts_max = attempts_max
        self._stale_after = stale_after

    def receive(self, delivery: Delivery) -> list[Acknowledgement]:
        """Bring every batch of `delivery` to its end and return the acknowledgements to send, never before the commit.

        Raises:
            Unavailable: not all is done; whatever is not acknowledged comes again.
        """
        fault("inbox.received")
        fresh, singly = self._sort(delivery.batches)
        if not singly:
            try:
                return self._whole(fresh)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the handler raises, the batch is split to find whose fault it is
                log.warning("batch split", batches=[batch.id for batch in fresh], error=repr(error))
            self._mark_split(fresh)
            return [self._split(batch, halves=True) for batch in fresh]
        self._mark_split(fresh)
        return [
            self._split(batch, halves=batch in fresh and batch.deliveries < self._attempts_max)
            for batch in delivery.batches
        ]

    def _sort(self, batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
        """Batches to try whole, and those to take event by event: split before, or delivered so often that one of their events may
        be killing the process."""
        states = (
            self._store.transaction(lambda tx: tx.states([batch.id for batch in batches]))
            if any(batch.deliveries > 1 for batch in batches)
            else {}
        )
        singly = [
            batch
            for batch in batches
            if states.get(batch.id) is State.SPLIT
            or (batch.deliveries >= self._attempts_max and states.get(batch.id) is not State.DONE)
        ]
        return [batch for batch in batches if batch not in singly], singly

    def _whole(self, batches: Sequence[Batch]) -> list[Acknowledgement]:
        def work(tx: InboxTransaction) -> set[str]:
            owned = tx.claim([batch.id for batch in batches], single=False)
            fault("inbox.claimed")
            self._apply(tx, [message for batch in batches if batch.id in owned for message in _decode(batch.events)])
            fault("inbox.applied")
            if len(owned) < len(batches):
                others = tx.states([batch.id for batch in batches if batch.id not in owned])
                if State.SPLIT in others.values():
                    # Another delivery of it split it in the meantime; its single events decide, not this claim.
                    raise _SplitElsewhere
            return tx.blocked()

        blocked = self._store.transaction(work)
        fault("inbox.committed")
        return [_acknowledgement(batch, blocked) for batch in batches]

    def _apply(self, tx: InboxTransaction, messages: Sequence[Message[Any]]) -> None:
        """Handle what need not wait behind a parked event, and hold the rest."""
        blocked = tx.blocked()
        if not blocked:
            tx.handle(self._refuse_stale(messages, tx.now))
            return
        held = [message for message in messages if message.aggregate_id in blocked]
        rest = [message for message in messages if message.aggregate_id not in blocked]
        if held:
            tx.hold(held)
        if rest:
            tx.handle(self._refuse_stale(rest, tx.now))

    def _refuse_stale(self, messages: Sequence[Message[Any]], now: datetime) -> Sequence[Message[Any]]:
        if any(now - message.occurred_at > self._stale_after for message in messages):
            raise Poison("STALE")
        return messages

    def _mark_split(self, batches: Sequence[Batch]) -> None:
        if batches:
            self._store.transaction(lambda tx: tx.mark_split([batch.id for batch in batches]))
            fault("inbox.marked_split")

    def _split(self, batch: Batch, *, halves: bool) -> Acknowledgement:
        """Take a batch in parts until each of its events is done, held or parked."""

        def mark(tx: InboxTransaction) -> State | None:
            # Waits for a worker that has the whole batch in hand. What that one leaves behind decides, so it is read afterwards.
            tx.mark_split([batch.id])
            return tx.states([batch.id]).get(batch.id)

        if self._store.transaction(mark) is not State.DONE:
            raws = msgspec.json.decode(batch.events, type=list[msgspec.Raw])
            self._part(raws, halves=halves)
            self._store.transaction(lambda tx: tx.finish(batch.id))
            fault("inbox.finished")
        return _acknowledgement(batch, self._store.transaction(lambda tx: tx.blocked()))

    def _part(self, raws: Sequence[msgspec.Raw], *, halves: bool) -> None:
        if len(raws) == 1:
            self._single(raws[0])
            return
        if halves and self._try(raws):
            return
        middle = len(raws) // 2
        self._part(raws[:middle], halves=halves)
        self._part(raws[middle:], halves=halves)

    def _try(self, raws: Sequence[msgspec.Raw]) -> bool:
        """Apply these events in one transaction; False when that raised and nothing happened."""

        def work(tx: InboxTransaction) -> None:
            messages = [message for raw in raws for message in _decode_one(raw)]
            owned = tx.claim([message.event_id for message in messages], single=True)
            self._apply(tx, [message for message in messages if message.event_id in owned])
            fault("inbox.part_applied")

        try:
            self._store.transaction(work)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - the part is split further, down to the event that is to blame
            log.warning("part failed", events=len(raws), error=repr(error))
            return False
        fault("inbox.part_committed")
        return True

    def _single(self, raw: msgspec.Raw) -> None:
        """One event, tried until it is done, held or parked."""
        [header] = _headers(msgspec.Raw(b"[" + bytes(raw) + b"]"))
        failure = "the worker that tried it ended"
        while True:
            with self._alone:
                outcome = self._attempt(raw, header, failure)
                if outcome is None:
                    return
                failure = outcome

    def _attempt(self, raw: msgspec.Raw, header: Message[Any], failure: str) -> str | None:
        """Try one event. None if that was its end, else what went wrong; `failure` is what went wrong before.

        The attempt is counted in a transaction of its own, so that it counts even if the work kills the process.
        """
        if self._store.transaction(lambda tx: tx.states([header.event_id])).get(header.event_id) is State.DONE:
            return None
        attempts = self._store.transaction(lambda tx: tx.count_attempt(header.event_id))
        fault("inbox.attempt_counted")
        if attempts > self._attempts_max:
            self._store.transaction(lambda tx: self._park(tx, header, failure))
            log.error("event parked", event_id=header.event_id, type=header.type, aggregate_id=header.aggregate_id)
            return None
        try:
            self._store.transaction(lambda tx: self._apply_single(tx, raw, header))
            fault("inbox.single_committed")
            return None
        except Unavailable:
            raise
        except Poison as poison:
            reason = str(poison)
            self._store.transaction(lambda tx: self._park(tx, header, reason))
            return None
        except Exception as error:  # noqa: BLE001 - counted; parked after the last attempt
            log.warning(
                "event failed", event_id=header.event_id, type=header.type, attempts=attempts, error=repr(error)
            )
            return f"{type(error).__name__}: {error}"[:_REASON_MAX]

    def _apply_single(self, tx: InboxTransaction, raw: msgspec.Raw, header: Message[Any]) -> None:
        if tx.claim([header.event_id], single=True):
            if header.aggregate_id in tx.blocked():
                tx.hold([header])
            else:
                tx.handle(self._refuse_stale(_decode_one(raw), tx.now))
        fault("inbox.single_applied")

    def _park(self, tx: InboxTransaction, header: Message[Any], reason: str) -> None:
        if tx.claim([header.event_id], single=True):
            tx.park(header, reason)
            fault("inbox.park_written")


class _SplitElsewhere(Exception):
    pass


def _acknowledgement(batch: Batch, blocked: set[str]) -> Acknowledgement:
    """PARKED if an event of the batch is parked, or waits behind one of its aggregate."""
    waits = bool(blocked) and any(header.aggregate_id in blocked for header in _headers(batch.events))
    return Acknowledgement(batch.id, Outcome.PARKED if waits else Outcome.ACKED)


_header_decoder = msgspec.json.Decoder(list[Message[Any]])


def _headers(events: msgspec.Raw) -> list[Message[Any]]:
    """The events with untyped payloads: their shape may be what is wrong with them."""
    return _header_decoder.decode(events)


def _decode(events: msgspec.Raw) -> list[Message[Any]]:
    return decode_messages(bytes(events))


def _decode_one(raw: msgspec.Raw) -> list[Message[Any]]:
    return decode_messages(b"[" + bytes(raw) + b"]")
