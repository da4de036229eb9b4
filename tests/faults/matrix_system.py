"""All processes of a system as objects of this process, moved by hand: every request, relay step, delivery and timer turn is an
`Act`, so that a test knows which of them comes by a fault point, can do it twice, and can let another process take over.

What is left out is the waiting: the loops are the services' own, a turn of each at a time, and leases last tenths of a second.
"""

import importlib
import importlib.util
import os
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import redis

from shared import idempotency
from shared.db import Database
from shared.db.engine import HANDLER_LIMITS, REQUEST_LIMITS, DatabaseUnavailable
from shared.errors import BrokageError
from shared.faults import inject
from shared.http.valkey import Valkey
from shared.idempotency import IdempotencyKeyInUse, IdempotencyMarks
from shared.messaging import broker as broker_module
from shared.messaging import outbox, runtime, seal
from shared.messaging.broker import Broker
from shared.messaging.delivery import Acknowledgement, Delivery, decode_delivery, encode_delivery
from shared.messaging.relay import Relay
from shared.mongo import MongoDatabase
from shared.testing.pump import READERS, SOURCES
from shared.testing.seals import refuse_to_refuse

LEASE_SECONDS = 0.15
STOPPED_SECONDS = 0.3
"""How long the database lets a stopped process hold its locks."""
TIMES = {
    "BROKAGE_RELAY_LEASE_SECONDS": str(LEASE_SECONDS),
    "BROKAGE_AUDIT_LEASE_SECONDS": str(LEASE_SECONDS),
    "BROKAGE_AUDIT_LEASE_WAIT_SECONDS": "1",
    "BROKAGE_AUDIT_INTAKE_POLL_SECONDS": "0",
    "BROKAGE_TELEMETRY_POLL_SECONDS": "0",
    "BROKAGE_EMAIL_LEASE_SECONDS": str(LEASE_SECONDS),
    "BROKAGE_EMAIL_PAUSE_SECONDS": "0.01",
    "BROKAGE_EMAIL_POLL_SECONDS": "0",
    "BROKAGE_WORKER_POOL_SIZE": "3",
}
_TURNS_MAX = 600
_REPEATS_MAX = 60
_PAUSE_SECONDS = 0.02


class Death(BaseException):
    """Out of everything, as if the process had died here: nobody catches it but the system, which starts another."""


@dataclass(frozen=True)
class Act:
    """Something a process does. `name` says who does what; `types` are the messages in its hands."""

    name: str
    work: Callable[["Machine"], Any]
    types: frozenset[str] = frozenset()
    points: list[str] = field(default_factory=list, compare=False)
    """Those it came by, repetitions included; not those of others who do the same."""

    @property
    def is_request(self) -> bool:
        return self.name.startswith("request")


class MemoryBroker:
    """What the broker promises: nothing. It also counts, and can refuse."""

    def __init__(self) -> None:
        self.queues: dict[str, deque[bytes]] = defaultdict(deque)
        self.acknowledgements: dict[str, deque[Acknowledgement]] = defaultdict(deque)
        self.refusals = 0

    def publish(self, destination: str, delivery: Delivery) -> None:
        if self.refusals:
            self.refusals -= 1
            raise redis.ConnectionError("away")
        self.queues[destination].append(encode_delivery(delivery))

    def unread(self, destination: str) -> int:
        return len(self.queues[destination])

    def acknowledge(self, source: str, acknowledgements: list[Acknowledgement]) -> None:
        self.acknowledgements[source].extend(acknowledgements)

    def take_acknowledgements(self, source: str, wait_seconds: float) -> list[Acknowledgement]:
        waiting = self.acknowledgements[source]
        return [waiting.popleft() for _ in range(len(waiting))]

    def close(self) -> None:
        pass

    @property
    def empty(self) -> bool:
        return not any(self.queues.values()) and not any(self.acknowledgements.values())


class OneTurn(threading.Event):
    """A `stop` that lets a loop go round once."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: Counter[str] = Counter()

    def is_set(self) -> bool:
        return self._over("is_set")

    def wait(self, timeout: float | None = None) -> bool:
        return self._over("wait")

    def _over(self, how: str) -> bool:
        self._asked[how] += 1
        return self._asked[how] > 1


def real_broker(environment: Mapping[str, str]) -> Broker:
    seals = seal.load_directory(Path(environment["BROKAGE_KEY_DIR"]))
    return Broker(environment["BROKAGE_BROKER_URL"], seals, refuse_to_refuse)


def die_with(environment: Mapping[str, str], reader: str, data: bytes) -> None:
    """A worker process fetches a delivery from the real broker and ends."""
    dead = real_broker(environment)
    dead.publish(reader, decode_delivery(data))
    assert len(dead.dramatiq.do_fetch(reader, 1)) == 1  # type: ignore[attr-defined]
    name = dead.dramatiq.broker_id
    dead.close()
    with redis.Redis.from_url(environment["BROKAGE_BROKER_URL"]) as valkey:
        while any(client["name"] == name for client in valkey.client_list()):
            time.sleep(_PAUSE_SECONDS)


class Machine:
    """One life of every process: its consumers, loops, connections and whatever it keeps in memory."""

    def __init__(self, environment: Mapping[str, str], broker: MemoryBroker) -> None:
        self._opened: list[Any] = []
        with ExitStack() as stack:
            stack.enter_context(mock.patch.dict(os.environ, environment))
            stack.enter_context(mock.patch.object(runtime, "Broker", lambda *_: broker))
            for kind in (Database, MongoDatabase):
                stack.enter_context(mock.patch.object(kind, "__init__", self._noting(kind.__init__)))
            consumers = {name: started("worker", name) for name in READERS}
            self.receivers = {
                name: runtime._receiver(broker, consumer)  # type: ignore[arg-type]
                for name, consumer in consumers.items()
                if consumer is not None
            }
            loops = [loop for name in READERS for loop in started("relay", name) or ()]
            self.databases = {
                source: Database(environment[variable], name="matrix", pool_size=4)
                for source, variable in SOURCES.items()
            }
        self.relays = {loop.name.removesuffix(" relay"): loop for loop in loops if isinstance(loop, Relay)}
        self.timers = {loop.name: loop for loop in loops if not isinstance(loop, Relay)}
        self._valkey = Valkey(environment["BROKAGE_REDIS_URL"])
        self.marks = IdempotencyMarks(self._valkey)
        self.environment = environment
        self._broker = broker

    def _noting(self, init: Callable[..., None]) -> Callable[..., None]:
        def noted(opened: Any, *arguments: Any, **options: Any) -> None:
            init(opened, *arguments, **options)
            self._opened.append(opened)

        return noted

    def step_relay(self, source: str) -> None:
        """What the relay's loop does in a turn, without its threads."""
        relay = self.relays[source]
        relay._take_acknowledgements(OneTurn())
        acknowledgements, relay._acknowledgements = relay._acknowledgements, []
        try:
            relay.step(acknowledgements)
        except DatabaseUnavailable:
            relay._acknowledgements[:0] = acknowledgements

    def start_worker(self, reader: str) -> None:
        """What a worker process does before its first delivery, on the real broker; what it tells goes another way."""
        broker = real_broker(self.environment)
        try:
            with mock.patch.object(broker, "acknowledge", self._broker.acknowledge):
                runtime._tell_what_was_lost(broker, [reader])
        finally:
            broker.close()

    def close(self) -> None:
        for opened in self._opened:
            opened.close()
        self._valkey.close()


def started(part: str, service: str) -> Any:
    """A service's consumer, or its loops; None where it has none."""
    name = f"{service}.{part}"
    return getattr(importlib.import_module(name), part).start() if importlib.util.find_spec(name) else None


@contextmanager
def short_times() -> Iterator[None]:
    """Limits that the environment does not set, for this process."""
    idle = {"idle_in_transaction_session_timeout": f"{int(STOPPED_SECONDS * 1000)}ms"}
    with (
        mock.patch.dict(HANDLER_LIMITS, idle),
        mock.patch.dict(REQUEST_LIMITS, idle),
        mock.patch.object(idempotency, "IN_FLIGHT_MILLISECONDS", int(STOPPED_SECONDS * 1000)),
        # One lane to each destination: what is said together travels together.
        mock.patch.object(outbox, "lanes_per_destination", lambda: 1),
        mock.patch.object(broker_module, "_BELL_SECONDS", 0.0),
    ):
        yield


@dataclass
class System:
    """The processes, and what became of their acts. `injector` is asked at each fault point, with the act that came by."""

    environment: Mapping[str, str]
    timers: tuple[str, ...] = ()
    injector: Callable[[str, Act], None] = lambda point, act: None
    surfaced: list[BaseException] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.environment = {**self.environment, **TIMES}
        self.broker = MemoryBroker()
        self.primary = Machine(self.environment, self.broker)
        self._standby: Machine | None = None
        self._current = threading.local()
        self.held_back: set[str] = set()
        """Sources whose relay is slow: it does not get its turns."""
        self.away: set[str] = set()
        """Readers without a worker: nobody fetches their deliveries."""

    @property
    def standby(self) -> Machine:
        """The same processes once more, on connections and with a memory of their own."""
        if self._standby is None:
            self._standby = Machine(self.environment, self.broker)
        return self._standby

    def forget_marks(self) -> None:
        with redis.Redis.from_url(self.environment["BROKAGE_REDIS_URL"]) as valkey:
            for mark in valkey.scan_iter("idempotency:*"):
                valkey.delete(mark)

    def close(self) -> None:
        self.primary.close()
        if self._standby is not None:
            self._standby.close()

    @contextmanager
    def watched(self) -> Iterator[None]:
        with inject(self._passed):
            yield

    def _passed(self, point: str) -> None:
        act: Act | None = getattr(self._current, "act", None)
        if act is not None:
            if threading.current_thread() is threading.main_thread():
                act.points.append(point.partition("/")[0])  # without the aggregate of `inbox.handling`
            self.injector(point, act)

    # -- acts ------------------------------------------------------------------------------------------------------------

    def perform(self, act: Act, machine: Machine) -> Any:
        """Do it; what it raises is noted. A death or an error that ends a loop takes the process with it."""
        before = getattr(self._current, "act", None)
        self._current.act = act
        self.acts.append(act)
        try:
            return act.work(machine)
        except Death as death:
            self.surfaced.append(death)
            self._replace(machine)
            raise
        except Exception as error:
            self.surfaced.append(error)
            if not act.is_request:
                self._replace(machine)
            raise
        finally:
            self._current.act = before

    def _replace(self, machine: Machine) -> None:
        assert machine is self.primary, "only the first machine is broken"
        self.primary = Machine(self.environment, self.broker)
        machine.close()

    def request(self, name: str, work: Callable[[Machine], Any], machine: Machine | None = None) -> Any:
        """What a client does: the same again, with the same key, until it is answered. What is refused is raised."""
        return self._until_done(Act(f"request {name}", work), machine)

    def start_worker(self, reader: str) -> None:
        """One that ends while it starts is started anew."""
        self._until_done(Act(f"start {reader}", lambda machine: machine.start_worker(reader)))

    def _until_done(self, act: Act, machine: Machine | None = None) -> Any:
        for _ in range(_REPEATS_MAX):
            try:
                return self.perform(act, machine or self.primary)
            except BrokageError as error:
                if not isinstance(error, IdempotencyKeyInUse):
                    raise
            except (Exception, Death):  # noqa: BLE001 - for who waits all of them are no answer
                pass
            time.sleep(_PAUSE_SECONDS)
        raise AssertionError(f"never done: {act.name}: {self.surfaced[-1]!r}")

    def _do(self, act: Act, machine: Machine) -> None:
        try:
            self.perform(act, machine)
        except (Exception, Death) as error:
            if isinstance(error, AssertionError):
                raise

    def turn(self, machine: Callable[[], Machine]) -> bool:
        """One turn of every relay and every queue; whether there was something to deliver."""
        for source in SOURCES:
            if source not in self.held_back:
                self._do(Act(f"relay {source}", lambda m, source=source: m.step_relay(source)), machine())
        delivered = False
        for reader in READERS:
            while reader not in self.away and (data := self.fetch(reader)) is not None:
                delivered = True
                types = frozenset(_types(data))
                self._do(Act(f"deliver {reader}", lambda m, r=reader, d=data: m.receivers[r](d), types), machine())
        return delivered

    def fetch(self, reader: str) -> bytes | None:
        try:
            return self.broker.queues[reader].popleft()
        except IndexError:
            return None

    def turn_timers(self, machine: Callable[[], Machine]) -> None:
        for name in self.timers:
            self._do(Act(f"timer {name}", lambda m, name=name: m.timers[name].run(OneTurn())), machine())

    # -- rest ------------------------------------------------------------------------------------------------------------

    def drain(
        self,
        machine: Callable[[], Machine] | None = None,
        until: Callable[[], bool] = lambda: False,
        rested: Callable[[], bool] = lambda: True,
    ) -> None:
        """Until nothing is left to do, by nobody's hand but the processes' own."""
        machine = machine or (lambda: self.primary)
        quiet = 0
        for _ in range(_TURNS_MAX):
            if until():
                return
            if self.turn(machine):
                continue
            self.turn_timers(machine)
            quiet = quiet + 1 if self.broker.empty and self._outboxes_empty() and rested() else 0
            # A timer's turn that failed is made up for by its next one.
            if quiet > bool(self.timers):
                return
            if not quiet:
                time.sleep(_PAUSE_SECONDS / 2)
        raise AssertionError("it does not come to rest")

    def _outboxes_empty(self) -> bool:
        for source, database in self.primary.databases.items():
            if source in self.held_back:
                continue
            with database.read() as connection:
                row = connection.execute("SELECT 1 FROM outbox_events WHERE acked_at IS NULL LIMIT 1").fetchone()
            if row is not None:
                return False
        return True


def _types(data: bytes) -> Iterator[str]:
    for batch in decode_delivery(data).batches:
        for event in msgspec.json.decode(batch.events):
            yield event["type"]
