"""The consumer's side: each batch has its effect exactly once, whatever the broker does.

`Inbox` decides; an `InboxStore` keeps what it decided (`postgres_inbox.py`, `shared/mongo/`, and a model in the tests). The claim
on a batch is an insert in the transaction of its effect. A batch that fails is split down to the event that fails; an event that
failed three times is parked, and later events of its aggregate are held behind it. An outage is no failure of the event that met
it, and an event without a readable header is parked under what can be read of it.
"""

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from shared.contracts.message import Message, decode_messages
from shared.faults import fault
from shared.logging import describe
from shared.messaging.delivery import Acknowledgement, Batch, Delivery, Outcome

log = structlog.get_logger(__name__)
T = TypeVar("T")
_REASON_MAX = 500
_SMALL_DELIVERY = 20
"""Events. One by one they take some 10 ms each and take turns, and a process that ends may have had 20 deliveries in hand: all of
them are done while the event that ended it waits."""


class State(StrEnum):
    DONE = "DONE"
    SPLIT = "SPLIT"


class Malformed(msgspec.Struct, frozen=True):
    """An event whose header is not one. Its identity is its own where that can be read, else made from its text, so that a
    repeat is the same; its aggregate likewise, so that it blocks no other."""

    event_id: str
    type: str
    aggregate_type: str
    aggregate_id: str
    raw: msgspec.Raw


def as_it_came(message: "Message[Any] | Malformed") -> "Message[Any] | msgspec.Raw":
    """What is kept of a message, to be encoded."""
    return message.raw if isinstance(message, Malformed) else message


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

    def abandoned(self, event_ids: Sequence[str]) -> set[str]:
        """Those of which an attempt was counted that has not ended in anything."""

    def uncount_attempts(self, event_ids: Sequence[str]) -> None:
        """One attempt less on each of these."""

    def blocked(self) -> set[str]:
        """Aggregates with a parked or held event: later events of theirs wait."""

    def park(self, message: Message[Any] | Malformed, reason: str) -> None: ...

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
    """The store cannot be reached now. The delivery is not acknowledged; its source sends it again.

    `stalled`: it can be, but this work does not get through it: it conflicts with itself, or stops in its transaction. Unlike an
    outage that may be the event's own fault.
    """

    def __init__(self, consumer: str, *, stalled: bool = False) -> None:
        super().__init__(consumer)
        self.stalled = stalled


class Inbox:
    """Receives the deliveries of one consumer.

    Args:
        attempts_max: how often one event, or a whole batch, is tried.
        pause_seconds: how long a delivery waits that may be killing its process, while others go first. Short of the lease.
        stale_after: older events are parked as STALE, because the record of what was processed is kept only a little longer.
    """

    # Of the whole process: counted attempts take turns, else an event that kills the process uses up the attempts of those in
    # work beside it, and they are parked with it.
    _alone: AbstractContextManager[Any] = threading.Lock()
    _pause = staticmethod(time.sleep)

    def __init__(
        self,
        store: InboxStore,
        *,
        attempts_max: int = 3,
        pause_seconds: float = 4.0,
        stale_after: timedelta = timedelta(days=30),
    ) -> None:
        self._store = store
        self._attempts_max = attempts_max
        self._pause_seconds = pause_seconds
        self._stale_after = stale_after
        self._uncounted: list[str] = []
        self._uncounted_lock = threading.Lock()

    def let_others_go_first(self, delivery: Delivery) -> None:
        """Wait, if an event of `delivery` may have ended its process: whatever else that had in hand gets this long to be done.

        Before `receive`, with nothing held. Raises Unavailable.
        """
        repeated = [batch for batch in delivery.batches if batch.deliveries > 1]
        if not repeated:
            return
        event_ids = [header.event_id for batch in repeated for header in _headers(batch.events)]
        abandoned = self._store.transaction(lambda tx: tx.abandoned(event_ids))
        if abandoned:
            log.warning("delivery waits for others", event_ids=sorted(abandoned))
            self._pause(self._pause_seconds)
            fault("inbox.waited")

    def receive(self, delivery: Delivery) -> list[Acknowledgement]:
        """Bring every batch of `delivery` to its end and return the acknowledgements to send, never before the commit.

        Raises:
            Unavailable: not all is done; whatever is not acknowledged comes again.
        """
        fault("inbox.received")
        self._uncount_outages()
        fresh, singly = self._sort(delivery.batches)
        if not singly:
            try:
                return self._whole(fresh)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the handler raises, the batch is split to find whose fault it is
                log.warning("batch split", batches=[batch.id for batch in fresh], error=describe(error))
            self._mark_split(fresh)
            return [self._split(batch, halves=True) for batch in fresh]
        self._mark_split(fresh)
        return [self._split(batch, halves=batch in fresh) for batch in delivery.batches]

    def _sort(self, batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
        """Batches to try whole, and those to take event by event: split before, or delivered so often that one of their events may
        be killing the process."""
        if all(batch.deliveries == 1 for batch in batches):
            return list(batches), []
        states = self._store.transaction(lambda tx: tx.states([batch.id for batch in batches]))
        whole_max = self._whole_max(batches)
        singly = [
            batch
            for batch in batches
            if states.get(batch.id) is State.SPLIT
            or (batch.deliveries > whole_max and states.get(batch.id) is not State.DONE)
        ]
        return [batch for batch in batches if batch not in singly], singly

    def _whole_max(self, batches: Sequence[Batch]) -> int:
        """How many deliveries of these are tried whole: of a small one the first, because its events one by one cost less than a
        process that ends once more, with all that it has in hand."""
        small = sum(len(_raws(batch.events)) for batch in batches) <= _SMALL_DELIVERY
        return 1 if small else self._attempts_max - 1

    def _whole(self, batches: Sequence[Batch]) -> list[Acknowledgement]:
        # Before the transaction, so that nobody waits for its end meanwhile.
        decoded = [(batch.id, _decode(batch.events)) for batch in batches]

        def work(tx: InboxTransaction) -> set[str]:
            owned = tx.claim([id for id, _ in decoded], single=False)
            fault("inbox.claimed")
            self._apply(tx, [message for id, messages in decoded if id in owned for message in messages])
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
            raws = _raws(batch.events)
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
            log.warning("part failed", events=len(raws), error=describe(error))
            return False
        fault("inbox.part_committed")
        return True

    def _single(self, raw: msgspec.Raw) -> None:
        """One event, tried until it is done, held or parked."""
        header = _header(raw)
        if isinstance(header, Malformed):
            # It cannot be tried, so there is nothing to count.
            self._store.transaction(lambda tx: self._park(tx, header, "MALFORMED"))
            log.error("malformed event parked", event_id=header.event_id)
            return
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
        except Unavailable as outage:
            if not outage.stalled:
                with self._uncounted_lock:
                    self._uncounted.append(header.event_id)
            raise
        except Poison as poison:
            reason = str(poison)
            self._store.transaction(lambda tx: self._park(tx, header, reason))
            return None
        except Exception as error:  # noqa: BLE001 - counted; parked after the last attempt
            log.warning(
                "event failed", event_id=header.event_id, type=header.type, attempts=attempts, error=describe(error)
            )
            return describe(error)[:_REASON_MAX]

    def _uncount_outages(self) -> None:
        """Attempts that met an outage were none. They are taken back when the store is there again, by this process; should it end
        before, they count as if they had ended it."""
        with self._uncounted_lock:
            event_ids, self._uncounted = self._uncounted, []
        if not event_ids:
            return
        try:
            self._store.transaction(lambda tx: tx.uncount_attempts(event_ids))
        except BaseException:
            with self._uncounted_lock:
                self._uncounted += event_ids
            raise

    def _apply_single(self, tx: InboxTransaction, raw: msgspec.Raw, header: Message[Any]) -> None:
        if tx.claim([header.event_id], single=True):
            if header.aggregate_id in tx.blocked():
                tx.hold([header])
            else:
                tx.handle(self._refuse_stale(_decode_one(raw), tx.now))
        fault("inbox.single_applied")

    def _park(self, tx: InboxTransaction, header: Message[Any] | Malformed, reason: str) -> None:
        if tx.claim([header.event_id], single=True):
            tx.park(header, reason)
            fault("inbox.park_written")


class _SplitElsewhere(Exception):
    pass


def _acknowledgement(batch: Batch, blocked: set[str]) -> Acknowledgement:
    """PARKED if an event of the batch is parked, or waits behind one of its aggregate."""
    waits = bool(blocked) and any(header.aggregate_id in blocked for header in _headers(batch.events))
    return Acknowledgement(batch.id, Outcome.PARKED if waits else Outcome.ACKED)


_header_decoder = msgspec.json.Decoder(Message[Any])
_MALFORMED = uuid.UUID("6f1d5a3e-7c55-5b0e-9c1e-6d1f0a6c2b11")


def _raws(events: msgspec.Raw) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(events, type=list[msgspec.Raw])
    except msgspec.ValidationError:
        return [events]  # no array of events: one thing that nobody can read


def _headers(events: msgspec.Raw) -> list[Message[Any] | Malformed]:
    """The events with untyped payloads: their shape may be what is wrong with them."""
    return [_header(raw) for raw in _raws(events)]


def _header(raw: msgspec.Raw) -> Message[Any] | Malformed:
    try:
        message = _header_decoder.decode(raw)
        uuid.UUID(message.event_id)
    except (msgspec.ValidationError, ValueError):
        return _malformed(raw)
    return message


def _malformed(raw: msgspec.Raw) -> Malformed:
    fields: Any = msgspec.json.decode(raw)
    texts = {key: value for key, value in fields.items() if isinstance(value, str)} if isinstance(fields, dict) else {}
    event_id = str(uuid.uuid5(_MALFORMED, bytes(raw).decode()))
    with contextlib.suppress(ValueError):
        event_id = str(uuid.UUID(texts.get("event_id", "")))
    return Malformed(
        event_id=event_id,
        type=texts.get("type", "Malformed"),
        aggregate_type=texts.get("aggregate_type", "malformed"),
        aggregate_id=texts.get("aggregate_id", event_id),
        raw=raw,
    )


def _decode(events: msgspec.Raw) -> list[Message[Any]]:
    return decode_messages(bytes(events))


def _decode_one(raw: msgspec.Raw) -> list[Message[Any]]:
    return decode_messages(b"[" + bytes(raw) + b"]")
