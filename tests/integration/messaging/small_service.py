"""A service small enough to see through: `tests` writes an effect for each event and tells `echo`, which does the same.

Nothing in the table of effects is unique, so whatever is applied twice is there twice. What an event does is in its aggregate's
name. Run as a program, it is a worker process.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis

from shared import faults
from shared.contracts.message import Message
from shared.contracts.orders import ConfirmOrder
from shared.db.engine import HANDLER_LIMITS, Database
from shared.db.unit_of_work import UnitOfWork
from shared.messaging.broker import Broker, Refused
from shared.messaging.outbox import PostgresOutbox
from shared.messaging.relay import Relay
from shared.messaging.runtime import ServiceWorker, StoreConsumer, _receiver, pace_of, postgres_consumer, run_workers
from shared.settings import ServiceSettings
from shared.testing.seals import MESSAGE_KEYS, SEALS, refuse_to_refuse

SOURCE = "source"
CONSUMERS = ("tests", "echo")
WAITING = "FROM outbox_events WHERE acked_at IS NULL AND destination <> 'auditor'"
"""There is no auditor here."""
BAD_VERSION = 2
"""The second event of an aggregate named `poison..` or `killer..` is the bad one."""


def handle(unit: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    for message in messages:
        if message.aggregate_version == BAD_VERSION:
            _misbehave(message)
        if message.aggregate_id.startswith("slow"):
            time.sleep(0.1)
        _write(unit, "tests", message)
        unit.record(
            ConfirmOrder(),
            aggregate_id=message.aggregate_id,
            aggregate_version=message.aggregate_version,
            cause=message,
            readers=["echo"],
        )


def _misbehave(message: Message[Any]) -> None:
    if message.aggregate_id.startswith("poison"):
        raise ValueError(message.aggregate_id)
    if message.aggregate_id.startswith("killer"):
        time.sleep(0.05)
        assert __name__ == "__main__", f"{message} would have ended the test run"
        os._exit(9)


def echo(unit: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    for message in messages:
        _write(unit, "echo", message)


def _write(unit: UnitOfWork, consumer: str, message: Message[Any]) -> None:
    unit.connection.execute(
        "INSERT INTO effects (consumer, aggregate_id, version) VALUES (%s, %s, %s)",
        (consumer, message.aggregate_id, message.aggregate_version),
    )


def settings_of(valkey_url: str, *, lease_seconds: float) -> ServiceSettings:
    # Both named: what the environment says of a queue is another broker, whose leftovers these tests would read.
    return ServiceSettings(
        redis_url=valkey_url,
        broker_url=valkey_url,
        relay_lease_seconds=lease_seconds,
        relay_sweep_seconds=0.1,
        relay_linger_seconds=0.0,
        message_keys=MESSAGE_KEYS,
        relay_acknowledgement_seconds=0.0,
        relay_telling_seconds=0.0,
    )


def consumers(url: str, settings: ServiceSettings) -> dict[str, StoreConsumer]:
    return {
        "tests": postgres_consumer("tests", url, settings, handle),
        "echo": postgres_consumer("echo", url, settings, echo),
    }


def workers(url: str, settings: ServiceSettings) -> list[ServiceWorker]:
    return [
        ServiceWorker("tests", lambda: postgres_consumer("tests", url, settings, handle)),
        ServiceWorker("echo", lambda: postgres_consumer("echo", url, settings, echo)),
    ]


class Source:
    """Says things, and tells what became of them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url, name=SOURCE, pool_size=2)
        self.versions: dict[str, int] = {}

    def say(self, *aggregates: str) -> None:
        """The next event of each of `aggregates`, all in one transaction; naming one twice makes two events."""

        def work(unit: UnitOfWork) -> None:
            versions = dict(self.versions)
            for aggregate_id in aggregates:
                versions[aggregate_id] = versions.get(aggregate_id, 0) + 1
                unit.record(
                    ConfirmOrder(),
                    aggregate_id=aggregate_id,
                    aggregate_version=versions[aggregate_id],
                    readers=["tests"],
                )
            said.append(versions)

        said: list[dict[str, int]] = []
        self.database.run(work)
        self.versions = said[-1]

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement, values).fetchall()

    def effects(self, aggregate_id: str, consumer: str = "tests") -> list[int]:
        rows = self.query(
            "SELECT version FROM effects WHERE aggregate_id = %s AND consumer = %s ORDER BY position",
            aggregate_id,
            consumer,
        )
        return [version for (version,) in rows]

    def letters(self, aggregate_id: str) -> list[tuple[str, str, int]]:
        return self.query(
            "SELECT status, reason, coalesce(message->>'aggregate_version', '1')::int FROM dead_letters WHERE aggregate_id = %s"
            " ORDER BY position",
            aggregate_id,
        )  # type: ignore[return-value]

    def drained(self) -> bool:
        return self.query(f"SELECT count(*) {WAITING}") == [(0,)]

    def wait_drained(self, seconds: float = 30.0) -> None:
        wait_until(self.drained, seconds, lambda: self.query(f"SELECT * {WAITING}"))

    def refusals(self) -> list[tuple[str, str, int]]:
        """What the auditor is told: of which queue what was refused, and how often."""
        return self.query(
            """SELECT event -> 'payload' ->> 'queue', event -> 'payload' ->> 'kind', (event -> 'payload' ->> 'count')::int
                 FROM outbox_events, jsonb_array_elements(payload::jsonb) AS event
                WHERE destination = 'auditor' AND event -> 'actor' ->> 'role' = 'UNKNOWN' ORDER BY seq"""
        )  # type: ignore[return-value]

    def assert_all_once(self, *, but: Sequence[str] = ()) -> None:
        """Every event of every aggregate has had its effect once and in order, at both consumers."""
        for aggregate_id, last in self.versions.items():
            if aggregate_id not in but:
                for consumer in CONSUMERS:
                    found = self.effects(aggregate_id, consumer)
                    assert found == list(range(1, last + 1)), (aggregate_id, consumer, found, last)
        parked = self.query("SELECT DISTINCT aggregate_id FROM dead_letters")
        assert {aggregate_id for (aggregate_id,) in parked} == set(but)

    def close(self) -> None:
        self.database.close()


def wait_until(condition: Any, seconds: float, explain: Any = lambda: "") -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, explain()
        time.sleep(0.02)


class Machine:
    """One relay and both consumers, moved by hand: what crashes here crashes out of `turn`."""

    def __init__(self, url: str, valkey_url: str, *, lease_seconds: float) -> None:
        self._settings = settings_of(valkey_url, lease_seconds=lease_seconds)
        self._database = Database(url, name=SOURCE, pool_size=2)
        self.broker = Broker(valkey_url, SEALS, refuse_to_refuse)
        self.relay = relay_of(self._database, self.broker, self._settings)
        self._consumers = consumers(url, self._settings)
        self._receivers = {name: _receiver(self.broker, consumer) for name, consumer in self._consumers.items()}

    def turn(self) -> None:
        self.relay.step(self.broker.take_acknowledgements(SOURCE, wait_seconds=0.01))
        for name, receive in self._receivers.items():
            for delivery in self.fetch(name):
                receive(delivery)

    def fetch(self, queue: str) -> Iterator[bytes]:
        """What a dramatiq worker would take from the broker."""
        for data in self.broker.dramatiq.do_fetch(queue, 16):
            if data is not None:
                message = self.broker.dramatiq.open(queue, data)
                assert message is not None
                yield message.kwargs["delivery"]
                self.broker.dramatiq.do_ack(queue, message.options["redis_message_id"])

    def close(self) -> None:
        self._database.close()
        self.broker.close()
        for consumer in self._consumers.values():
            consumer.close()


def relay_of(database: Database, broker: Broker, settings: ServiceSettings) -> Relay:
    store = PostgresOutbox(database, lease_seconds=settings.relay_lease_seconds, events_max=settings.claim_events_max)
    return Relay(
        SOURCE,
        store,
        broker,
        listen_url=database.url,
        pace=pace_of(settings),
    )


@contextmanager
def running_relays(
    count: int, url: str, settings: ServiceSettings, refused: Refused = refuse_to_refuse
) -> Iterator[None]:
    """Relays as they run in production, each with its own connections."""
    stop = threading.Event()
    with ExitStack() as stack:
        threads = []
        for _ in range(count):
            database = Database(url, name="relay", pool_size=2)
            broker = Broker(settings.queue_url, SEALS, refused)
            stack.callback(database.close)
            stack.callback(broker.close)
            relay = relay_of(database, broker, settings)
            threads.append(threading.Thread(target=relay.run, args=(stop,), daemon=True))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in (*threads, *(t for t in threading.enumerate() if t.name.startswith(f"{SOURCE} relay"))):
                thread.join(10)
        assert not any(thread.is_alive() for thread in threads)


@contextmanager
def running_workers(url: str, settings: ServiceSettings) -> Iterator[None]:
    """A worker process's insides, in this process."""
    stop, ready = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=run_workers,
        args=(workers(url, settings), stop),
        kwargs={"settings": settings, "on_ready": ready.set},
        daemon=True,
    )
    thread.start()
    assert ready.wait(10)
    try:
        yield
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


def main(url: str, valkey_url: str, lease_seconds: str, stop_at: str) -> None:
    """A worker process that stops itself (SIGSTOP) the first time it comes by the fault point `stop_at`."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stopped = threading.Event()

    def stop_once(point: str) -> None:
        if point == stop_at and not stopped.is_set():
            stopped.set()
            os.kill(os.getpid(), signal.SIGSTOP)

    # How long a stopped worker may hold its locks.
    HANDLER_LIMITS["idle_in_transaction_session_timeout"] = "1s"
    settings = settings_of(valkey_url, lease_seconds=float(lease_seconds))
    with faults.inject(stop_once):
        run_workers(workers(url, settings), stop, settings=settings, on_ready=lambda: print("ready", flush=True))


@contextmanager
def worker_process(
    source: Source, valkey_url: str, *, lease_seconds: float, stop_at: str = "never"
) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, __file__, source.url, valkey_url, str(lease_seconds), stop_at]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]


def flush(valkey_url: str) -> None:
    client = redis.Redis.from_url(valkey_url)
    client.flushall()
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
