"""A world in one thread at a time: sources, relays, a broker that loses everything, workers that die, a clock that jumps.

What decides is the real code: `Inbox`, `Relay.step`, `PostgresOutbox._decide` and `choose`. What keeps is a model: stores in
memory with transactions, row locks and read committed. Every process is a thread that holds the baton until it is paused, waits
for a lock, ends or dies; who goes on next comes from one seeded generator, so that a seed tells a whole story.
"""

import threading
import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from random import Random
from typing import Any, TypeVar

import msgspec
import redis

from shared.contracts.message import Message, encode_messages
from shared.contracts.orders import ConfirmOrder
from shared.faults import inject
from shared.ids import ROOT_ORGANIZATION_ID
from shared.messaging.delivery import Acknowledgement, Batch, Delivery, Outcome, decode_delivery, encode_delivery
from shared.messaging.inbox import Inbox, InboxTransaction, State, Unavailable
from shared.messaging.outbox import (
    _DEFERRED_SECONDS,
    _LOOK_AGAIN_SECONDS,
    Candidate,
    Claim,
    PostgresOutbox,
    QueueDepth,
    pack,
)
from shared.messaging.pace import Pace
from shared.messaging.relay import Relay

T = TypeVar("T")

CONSUMER = "consumer"
SOURCES = ("north", "south")
AGGREGATES = 4
LANES = 2
EVENTS = 32
STEPS = 100
LEASE_SECONDS = 15.0
STALE_AFTER = timedelta(days=30)
WORKERS_PER_LANE = 2
ROUNDS_MAX = 400
TURNS_MAX = 5_000
RESTART_SECONDS = 4.0
UNHURRIED = {"sweep_seconds": 1.0, "linger_seconds": 0.0, "acknowledgement_seconds": 0.0, "telling_seconds": 0.0}


class Crash(BaseException):
    """The process dies here: nothing of it goes on, what it has not committed is gone."""


class Conflict(Exception):
    """The database asks to repeat the transaction."""


class Kind(StrEnum):
    GOOD = "GOOD"
    POISON = "POISON"
    KILLER = "KILLER"
    STALE = "STALE"


class Process:
    """A thread that runs only between `resume` and its next `pause`."""

    def __init__(self, world: "World", work: Callable[[], None], delivery: Delivery | None = None) -> None:
        self.delivery = delivery
        self.done = False
        self.crash: Crash | None = None
        self.killed = False
        self.error: BaseException | None = None
        self.ready: Callable[[], bool] = lambda: True
        self._world = world
        self._work = work
        self._go = threading.Lock()
        self._back = threading.Lock()
        self._go.acquire()
        self._back.acquire()
        threading.Thread(target=self._run, daemon=True).start()

    def resume(self) -> None:
        self._world.current = self
        self._go.release()
        self._back.acquire()
        self._world.current = None

    def pause(self, ready: Callable[[], bool] = lambda: True) -> None:
        self.ready = ready
        self._back.release()
        self._go.acquire()
        if self.killed:
            raise Crash("killed")

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._work()
        except Unavailable:
            pass
        except Crash as crash:
            self.crash = crash
        except BaseException as error:  # noqa: BLE001 - reported as a violation
            self.error = error
        self.done = True
        self._back.release()


@dataclass
class Row:
    state: State
    attempts: int = 0


@dataclass
class MemoryTransaction:
    """Sees what is committed and its own writes; a row it writes is locked until it ends."""

    store: "MemoryInboxStore"
    now: datetime
    rows: dict[str, Row] = field(default_factory=dict)
    effects: list[Message[Any]] = field(default_factory=list)
    letters: list[tuple[str, Message[Any]]] = field(default_factory=list)
    waits_for: "MemoryTransaction | None" = None

    def claim(self, ids: Sequence[str], *, single: bool) -> set[str]:
        owned = set()
        for id in ids:
            self._lock(id)
            row = self._row(id)
            if row is None or (single and row.state is State.SPLIT):
                self.rows[id] = Row(State.DONE, row.attempts if row else 0)
                owned.add(id)
        return owned

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        return {id: row.state for id in ids if (row := self._row(id)) is not None}

    def mark_split(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._lock(id)
            if self._row(id) is None:
                self.rows[id] = Row(State.SPLIT)

    def finish(self, batch_id: str) -> None:
        self._lock(batch_id)
        if (row := self._row(batch_id)) is not None:
            self.rows[batch_id] = Row(State.DONE, row.attempts)

    def count_attempt(self, event_id: str) -> int:
        self._lock(event_id)
        row = self._row(event_id) or Row(State.SPLIT)
        self.rows[event_id] = Row(row.state, row.attempts + 1)
        return row.attempts + 1

    def abandoned(self, event_ids: Sequence[str]) -> set[str]:
        rows = {event_id: self._row(event_id) for event_id in event_ids}
        return {event_id for event_id, row in rows.items() if row and row.state is State.SPLIT and row.attempts > 0}

    def uncount_attempts(self, event_ids: Sequence[str]) -> None:
        for event_id in event_ids:
            self._lock(event_id)
            if (row := self._row(event_id)) is not None:
                self.rows[event_id] = Row(row.state, max(row.attempts - 1, 0))

    def blocked(self) -> set[str]:
        return {message.aggregate_id for _, message in (*self.store.letters, *self.letters)}

    def park(self, message: Message[Any], reason: str) -> None:
        self.letters.append(("PARKED", message))

    def hold(self, messages: Sequence[Message[Any]]) -> None:
        self.letters.extend(("HELD", message) for message in messages)

    def handle(self, messages: Sequence[Message[Any]]) -> None:
        for message in messages:
            kind = self.store.world.kinds[message.event_id]
            assert kind is not Kind.STALE, "a stale event reached the handler"
            if kind is Kind.POISON:
                raise ValueError(message.event_id)
            if kind is Kind.KILLER:
                raise Crash(message.event_id)
            self.effects.append(message)
        self.store.world.point("handled")

    def _row(self, id: str) -> Row | None:
        return self.rows.get(id) or self.store.rows.get(id)

    def _lock(self, id: str) -> None:
        locks = self.store.locks
        while (holder := locks.get(id)) not in (None, self):
            assert holder is not None
            self.waits_for = holder
            if self._in_a_cycle():
                self.waits_for = None
                raise Conflict("deadlock")
            self.store.world.wait_until(lambda holder=holder: locks.get(id) is not holder)  # type: ignore[misc]
            self.waits_for = None
        locks[id] = self

    def _in_a_cycle(self) -> bool:
        other = self.waits_for
        while other is not None and other is not self:
            other = other.waits_for
        return other is self


class MemoryInboxStore:
    """The consumer's database."""

    attempts_max = 6

    def __init__(self, world: "World") -> None:
        self.world = world
        self.rows: dict[str, Row] = {}
        self.effects: list[Message[Any]] = []
        self.letters: list[tuple[str, Message[Any]]] = []
        self.locks: dict[str, MemoryTransaction] = {}

    def begin(self) -> MemoryTransaction:
        return MemoryTransaction(self, self.world.now)

    def transaction(self, work: Callable[[InboxTransaction], T]) -> T:
        for _ in range(self.attempts_max):
            transaction = self.begin()
            try:
                self.world.point("begun")
                result = work(transaction)
                self.world.point("before commit")
                self.world.conflict()
                self._commit(transaction)
                self._unlock(transaction)
                # The answer to a commit may be lost; then the whole is repeated.
                self.world.conflict()
            except Conflict:
                continue
            finally:
                self._unlock(transaction)
            self.world.point("after commit")
            return result
        raise Unavailable

    def _commit(self, transaction: MemoryTransaction) -> None:
        self.rows.update(transaction.rows)
        self.effects.extend(transaction.effects)
        self.letters.extend(transaction.letters)

    def _unlock(self, transaction: MemoryTransaction) -> None:
        for id in [id for id, holder in self.locks.items() if holder is transaction]:
            del self.locks[id]


@dataclass
class OutboxRow:
    id: str
    lane: int
    events: list[Message[Any]]
    status: str = "PENDING"
    retry_count: int = 0
    lease_until: datetime | None = None
    published_at: datetime | None = None


class MemoryOutbox(PostgresOutbox):
    """One source's outbox. Decides as the real one does; nothing happens in the middle of its transaction but a crash."""

    def __init__(self, world: "World") -> None:
        self._lease_seconds = LEASE_SECONDS
        self._events_max = 8
        self._world = world
        self.rows: list[OutboxRow] = []

    def step(
        self, acknowledgements: Sequence[Acknowledgement], queue_depth: QueueDepth, left_out: Collection[str] = ()
    ) -> list[Claim]:
        self._world.may_crash()
        for acknowledgement in acknowledgements:
            self._answered(acknowledgement)
        lanes: dict[tuple[str, int], list[Candidate]] = {}
        for row in self.unanswered():
            candidate = Candidate(**self._candidate(row))
            lanes.setdefault((CONSUMER, row.lane), []).append(candidate)
        send, extend = self._decide(lanes, self._world.now, queue_depth)
        for row in self.unanswered():
            if row.id in send or row.id in extend:
                row.lease_until = self._world.now + timedelta(
                    seconds=LEASE_SECONDS if row.id in send else _LOOK_AGAIN_SECONDS
                )
        sent: dict[tuple[str, int], list[Batch]] = {}
        events: dict[str, int] = {}
        for row in self.unanswered():
            if row.id in send:
                row.status = "SENT"
                row.retry_count += 1
                row.published_at = row.published_at or self._world.now
                batch = Batch(row.id, row.retry_count, msgspec.Raw(encode_messages(row.events)))
                sent.setdefault((CONSUMER, row.lane), []).append(batch)
                events[row.id] = len(row.events)
        return pack(sent, events, events_max=self._events_max)

    def _answered(self, acknowledgement: Acknowledgement) -> None:
        """What is answered is noted; of what is lost or deferred the lease ends."""
        for row in self.unanswered():
            if row.id != acknowledgement.batch_id or row.status != "SENT":
                continue
            if acknowledgement.outcome not in (Outcome.LOST, Outcome.DEFERRED):
                row.status = acknowledgement.outcome
            elif row.retry_count == acknowledgement.deliveries:
                deferred = acknowledgement.outcome is Outcome.DEFERRED
                row.published_at = None
                row.retry_count -= deferred
                row.lease_until = self._world.now + timedelta(seconds=_DEFERRED_SECONDS if deferred else 0.0)

    @staticmethod
    def _candidate(row: OutboxRow) -> dict[str, Any]:
        return {
            "id": row.id,
            "event_count": len(row.events),
            "lease_until": row.lease_until,
            "published_at": row.published_at,
            "deliveries": row.retry_count,
        }

    def release(self, claims: Sequence[Claim]) -> None:
        ids = [batch.id for claim in claims for batch in claim.batches]
        for row in self.unanswered():
            if row.id in ids:
                row.retry_count -= 1
                row.published_at = None
                row.lease_until = self._world.now if row.retry_count else None

    def unanswered(self) -> list[OutboxRow]:
        return [row for row in self.rows if row.status in ("PENDING", "SENT")]


class LossyBroker:
    """A queue of deliveries and one of acknowledgements per source."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.queue: list[bytes] = []
        self.acknowledgements: dict[str, list[Acknowledgement]] = {source: [] for source in SOURCES}

    def publish(self, destination: str, delivery: Delivery) -> None:
        refused = self._world.chance(0.05)
        if not refused or self._world.chance(0.3):  # taken, perhaps, and only the answer was lost
            self.queue.append(encode_delivery(delivery))
        if refused:
            raise redis.ConnectionError

    def unread(self, destination: str) -> int:
        return len(self.queue)


class World:
    """One random schedule. `run` tells what went wrong in it."""

    def __init__(
        self,
        seed: int,
        *,
        inbox: type[Inbox] = Inbox,
        store: type[MemoryInboxStore] = MemoryInboxStore,
    ) -> None:
        self.random = Random(seed)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.kinds: dict[str, Kind] = {}
        self.said: dict[str, list[Message[Any]]] = {}
        self.current: Process | None = None
        self._processes: list[Process] = []
        self._healed = False
        self._left = EVENTS
        self._inbox_type = inbox
        self.store = store(self)
        self.broker = LossyBroker(self)
        self.outboxes = {source: MemoryOutbox(self) for source in SOURCES}
        broker: Any = self.broker
        self._relays = [
            (source, Relay(source, outbox, broker, listen_url="", pace=Pace(**UNHURRIED)))
            for source, outbox in self.outboxes.items()
            for _ in range(2)
        ]

    # -- what may happen at any step ---------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return not self._healed and self.random.random() < probability

    def point(self, name: str) -> None:
        """Between any two steps: the process goes on, waits for a long time, or dies."""
        if self.current is None or self._fragile(self.current):
            return
        if self.chance(0.04):
            raise Crash(name)
        if self.chance(0.12):
            self.current.pause()

    def may_crash(self) -> None:
        if self.chance(0.04):
            raise Crash

    def conflict(self) -> None:
        if self.current is not None and not self._fragile(self.current) and self.chance(0.03):
            raise Conflict

    def wait_until(self, ready: Callable[[], bool]) -> None:
        assert self.current is not None
        self.current.pause(ready)

    def _fragile(self, process: Process) -> bool:
        """Whether a good event has used up all attempts but the last ones: who dies once more would get it parked, rightly."""
        if process.delivery is None:
            return False
        rows = self.store.rows
        return any(
            (row := rows.get(message.event_id)) is not None and row.attempts >= 2 and row.state is State.SPLIT
            for batch in process.delivery.batches
            for message in self._events_of(process.delivery.source, batch.id)
            if self.kinds[message.event_id] is Kind.GOOD
        )

    def _events_of(self, source: str, batch_id: str) -> list[Message[Any]]:
        return next(row.events for row in self.outboxes[source].rows if row.id == batch_id)

    # -- who acts ----------------------------------------------------------------------------------------------------------

    def run(self) -> list[str]:
        with inject(self.point):
            for _ in range(STEPS):
                self._act()
            self._healed = True
            for _ in range(ROUNDS_MAX):
                if self._drained():
                    break
                self._drain()
        return self._violations()

    def _act(self) -> None:
        actions = [self._write, self._relay, self._work, self._go_on, self._wait, self._mischief]
        [action] = self.random.choices(actions, (3, 4, 4, 6, 2, 1))
        action()

    def _write(self) -> None:
        """A transaction of a source commits: one batch per lane."""
        if not self._left:
            return
        source = self.random.choice(SOURCES)
        count = min(self._left, self.random.choice((1, 1, 2, 4, 7)))
        self._left -= count
        batches: dict[int, list[Message[Any]]] = {}
        for _ in range(count):
            message = self._message(f"{source}-{self.random.randrange(AGGREGATES)}")
            batches.setdefault(int(message.aggregate_id[-1]) % LANES, []).append(message)
        rows = self.outboxes[source].rows
        for lane, events in batches.items():
            rows.append(OutboxRow(f"{source}/{len(rows)}", lane, events))

    def _message(self, aggregate_id: str) -> Message[Any]:
        before = self.said.setdefault(aggregate_id, [])
        kind = self._kind()
        message = Message(
            event_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{aggregate_id}#{len(before) + 1}")),
            type="ConfirmOrder",
            occurred_at=self.now - (STALE_AFTER * 2 if kind is Kind.STALE else timedelta()),
            aggregate_type="Order",
            aggregate_id=aggregate_id,
            aggregate_version=len(before) + 1,
            organization_id=ROOT_ORGANIZATION_ID,
            correlation_id="-",
            payload=ConfirmOrder(),
        )
        before.append(message)
        self.kinds[message.event_id] = kind
        return message

    def _kind(self) -> Kind:
        [kind] = self.random.choices(list(Kind), (30, 1, 1, 0.5))
        return kind

    def _relay(self) -> None:
        source, relay = self.random.choice(self._relays)
        self._step(source, relay)

    def _step(self, source: str, relay: Relay) -> None:
        relay._broker_down_until = 0.0  # measured on a clock that is not ours
        waiting = self.broker.acknowledgements[source]
        taken, waiting[:] = list(waiting), []
        self._start(Process(self, lambda: relay.step(taken) and None))

    def _work(self) -> None:
        """A worker takes a message, unless two are at work on one of its lanes."""
        for data in self.broker.queue:
            delivery = decode_delivery(data)
            at_work = [self._lanes_of(p.delivery) for p in self._processes if p.delivery is not None]
            if all(sum(lane in others for others in at_work) < WORKERS_PER_LANE for lane in self._lanes_of(delivery)):
                self.broker.queue.remove(data)
                self._start(Process(self, partial(self._receive, delivery), delivery))
                return

    def _lanes_of(self, delivery: Delivery) -> set[tuple[str, int]]:
        ids = {batch.id for batch in delivery.batches}
        return {(delivery.source, row.lane) for row in self.outboxes[delivery.source].rows if row.id in ids}

    def _receive(self, delivery: Delivery) -> None:
        inbox = self._inbox_type(self.store, stale_after=STALE_AFTER)
        inbox._alone = self._alone()
        inbox._pause = self._pause  # type: ignore[assignment]
        try:
            inbox.let_others_go_first(delivery)
            acknowledgements = inbox.receive(delivery)
        except Unavailable:
            if self.chance(0.5):
                self._tell(delivery, Outcome.DEFERRED)
            raise
        self.point("before acknowledge")
        if not self.chance(0.1):
            self.broker.acknowledgements[delivery.source].extend(acknowledgements)

    def _alone(self) -> AbstractContextManager[Any]:
        return nullcontext()  # every worker here is a process of its own

    def _pause(self, seconds: float) -> None:
        until = self.now + timedelta(seconds=seconds)
        self.wait_until(lambda: self.now >= until)

    def _start(self, process: Process) -> None:
        self._processes.append(process)
        self._resume(process)

    def _resume(self, process: Process) -> None:
        process.resume()
        if process.done:
            self._processes.remove(process)
            if process.error is not None:
                raise process.error
            if process.crash is not None:
                self._died(process)

    def _died(self, process: Process) -> None:
        """Its successor tells what it had in hand, if it starts soon and the broker still knows."""
        if process.delivery is not None and self.random.random() < 0.6:
            self._tell(process.delivery, Outcome.LOST)

    def _tell(self, delivery: Delivery, outcome: Outcome) -> None:
        said = [Acknowledgement(batch.id, outcome, batch.deliveries) for batch in delivery.batches]
        self.broker.acknowledgements[delivery.source].extend(said)

    def _go_on(self) -> None:
        ready = [process for process in self._processes if process.ready()]
        if ready:
            self._resume(self.random.choice(ready))

    def _wait(self) -> None:
        self.now += timedelta(seconds=self.random.choice((1, 5, 20, 70)))

    def _mischief(self) -> None:
        queue = self.broker.queue
        match self.random.randrange(5):
            case 0:
                queue.clear()
            case 1:
                queue.extend(self.random.sample(queue, self.random.randint(0, len(queue))))
            case 2:
                self.random.shuffle(queue)
            case 3:
                self.broker.acknowledgements[self.random.choice(SOURCES)].clear()
            case 4:
                # It only seems to have ended: its connections did.
                in_hand = [process.delivery for process in self._processes if process.delivery is not None]
                for delivery in (*in_hand, *map(decode_delivery, queue)):
                    if self.chance(0.5):
                        self._tell(delivery, self.random.choice((Outcome.LOST, Outcome.DEFERRED)))

    # -- the end -----------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        while ready := [process for process in self._processes if process.ready()]:
            self._resume(ready[0])
        for _ in range(len(self.broker.queue)):
            self._work()
        for source, relay in self._relays:
            self._step(source, relay)
        self.now += timedelta(seconds=5)

    def _drained(self) -> bool:
        return not (
            self._processes or self.broker.queue or any(outbox.unanswered() for outbox in self.outboxes.values())
        )

    def _violations(self) -> list[str]:
        violations = [] if self._drained() else ["not everything was acknowledged"]
        for aggregate_id, messages in self.said.items():
            numbers = range(len(messages))
            bad = next((n for n in numbers if self.kinds[messages[n].event_id] is not Kind.GOOD), len(messages))
            expected = {
                "effects": messages[:bad],
                "PARKED": messages[bad : bad + 1],
                "HELD": messages[bad + 1 :],
            }
            found = {
                "effects": self.store.effects,
                "PARKED": [message for status, message in self.store.letters if status == "PARKED"],
                "HELD": [message for status, message in self.store.letters if status == "HELD"],
            }
            for what, wanted in expected.items():
                got = [message.aggregate_version for message in found[what] if message.aggregate_id == aggregate_id]
                if got != [message.aggregate_version for message in wanted]:
                    wanted_versions = [message.aggregate_version for message in wanted]
                    violations.append(f"{aggregate_id}: {what} {got} instead of {wanted_versions}")
        return violations + [
            f"batch {row.id} is {row.status}"
            for outbox in self.outboxes.values()
            for row in outbox.rows
            if row.status not in (Outcome.ACKED, Outcome.PARKED)
        ]


class Turns:
    """The lock of one process: who waits for it lets others go on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._taken = False

    def __enter__(self) -> None:
        if self._taken:
            self._world.wait_until(lambda: not self._taken)
        self._taken = True

    def __exit__(self, *_: object) -> None:
        self._taken = False


class OneWorker(World):
    """Nothing goes wrong but one event that kills its process, and with it everything that the one worker has in hand.

    Time passes only while nobody has anything to do, and while the worker is started anew.
    """

    def __init__(self, seed: int, *, inbox: type[Inbox] = Inbox, tells: bool = True) -> None:
        super().__init__(seed, inbox=inbox)
        self._killer_at = self.random.randrange(EVENTS // 2)
        self._tells = tells
        self._turns = Turns(self)
        self.deaths: list[datetime] = []

    def chance(self, probability: float) -> bool:
        return False

    def point(self, name: str) -> None:
        if self.current is not None and self.current.delivery is not None and self.random.random() < 0.3:
            self.current.pause()

    def run(self) -> list[str]:
        with inject(self.point):
            for _ in range(TURNS_MAX):
                self._turn()
                if self._drained() and not self._left:
                    break
        return self._violations() + self._delays()

    def _turn(self) -> None:
        if self._left and self.random.random() < 0.2:
            self._write()
        if any(process.ready() for process in self._processes):
            if self.random.random() < 0.1:
                self._relay()
            self._go_on()
        else:
            for source, relay in self._relays:
                self._step(source, relay)
            self.now += timedelta(seconds=1)
        for _ in range(len(self.broker.queue)):
            self._work()

    def _kind(self) -> Kind:
        return Kind.KILLER if len(self.kinds) == self._killer_at else Kind.GOOD

    def _alone(self) -> AbstractContextManager[Any]:
        return self._turns

    def _died(self, process: Process) -> None:
        if process.killed:
            return
        self.deaths.append(self.now)
        with_it = [other for other in self._processes if other.delivery is not None]
        for other in with_it:
            other.killed = True
            self._resume(other)
        self.now += timedelta(seconds=RESTART_SECONDS)
        for other in (process, *with_it):
            if self._tells and other.delivery is not None:
                self._tell(other.delivery, Outcome.LOST)

    def _delays(self) -> list[str]:
        """How long the killer stood in the way, and how often other lanes had to begin again."""
        took = (self.deaths[-1] - self.deaths[0]).total_seconds()
        return [
            *([f"{len(self.deaths)} deaths"] if len(self.deaths) > 4 else []),
            *([f"{took} s from the first death to the last"] if took > 3 * (RESTART_SECONDS + 5) else []),
            *(f"batch {row.id} was delivered {row.retry_count} times" for row in self._others() if row.retry_count > 3),
        ]

    def _others(self) -> list[OutboxRow]:
        """Batches of the lanes without the killer."""
        lanes: dict[tuple[str, int], list[OutboxRow]] = {}
        for source, outbox in self.outboxes.items():
            for row in outbox.rows:
                lanes.setdefault((source, row.lane), []).append(row)
        kinds = {
            lane: {self.kinds[message.event_id] for row in rows for message in row.events}
            for lane, rows in lanes.items()
        }
        return [row for lane, rows in lanes.items() if Kind.KILLER not in kinds[lane] for row in rows]
