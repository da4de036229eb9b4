"""Worker and relay processes: what a service brings to them, and how they run until they are told to stop."""

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import dramatiq.worker
import msgspec
import redis
import structlog

from shared.db.engine import Database
from shared.faults import fault, install_from_environment
from shared.logging import describe
from shared.messaging import seal
from shared.messaging.broker import Broker
from shared.messaging.delivery import Acknowledgement, Delivery, Outcome, decode_delivery
from shared.messaging.inbox import Inbox, InboxStore, Unavailable
from shared.messaging.outbox import PostgresOutbox
from shared.messaging.pace import Pace
from shared.messaging.postgres_inbox import Handler, PostgresInboxStore
from shared.messaging.refusals import Record, Refusals, message_of, record_in_outbox
from shared.messaging.relay import Relay
from shared.messaging.right_of_way import RightOfWay
from shared.settings import ServiceSettings

log = structlog.get_logger(__name__)
_PATIENCE_SECONDS_MAX = 5.0
_PAUSE_SECONDS_MAX = 4.0
_TELLING_SECONDS_MAX = 2.0


class Consumer(Protocol):
    """One service's inbox, open."""

    def let_others_go_first(self, delivery: Delivery) -> None: ...

    def receive(self, delivery: Delivery) -> list[Acknowledgement]: ...

    @property
    def record(self) -> Record | None: ...

    def close(self) -> None: ...


class StoreConsumer:
    """A consumer over any inbox store; `close` closes what it works on. `record` puts on record what was refused; without it the
    auditor is told through the broker."""

    def __init__(
        self, store: InboxStore, settings: ServiceSettings, close: Callable[[], None], record: Record | None = None
    ) -> None:
        self.record = record
        self._inbox = Inbox(
            store,
            attempts_max=settings.event_attempts_max,
            pause_seconds=min(_PAUSE_SECONDS_MAX, settings.relay_lease_seconds / 3),
            stale_after=timedelta(seconds=settings.stale_after_seconds),
        )
        self._close = close

    def let_others_go_first(self, delivery: Delivery) -> None:
        self._inbox.let_others_go_first(delivery)

    def receive(self, delivery: Delivery) -> list[Acknowledgement]:
        return self._inbox.receive(delivery)

    def close(self) -> None:
        self._close()


def postgres_consumer(name: str, url: str, settings: ServiceSettings, handler: Handler) -> StoreConsumer:
    """The consumer of a service on Postgres: its queue has its name, `handler` gets each batch in an open unit of work."""
    database = Database(url, name=f"{name} worker", pool_size=settings.worker_pool_size, handler_limits=True)
    store = PostgresInboxStore(database, consumer=name, handler=handler)
    return StoreConsumer(store, settings, database.close, record_in_outbox(database))


@dataclass(frozen=True, slots=True)
class ServiceWorker:
    """A service as a worker process runs it. `start` opens its consumer. A `background` one lets the others go first."""

    name: str
    start: Callable[[], Consumer]
    background: bool = False


class Loop(Protocol):
    """Something that runs in a thread of a relay process until `stop` is set."""

    name: str

    def run(self, stop: threading.Event) -> None: ...


@dataclass(frozen=True, slots=True)
class ServiceRelay:
    """A service as a relay process runs it: its outbox relay, its sweepers and timers."""

    name: str
    start: Callable[[], Sequence[Loop]]


class Timer:
    """Calls `work` every `seconds`. What it raises is logged, and the next turn comes all the same."""

    def __init__(self, name: str, seconds: float, work: Callable[[], object]) -> None:
        self.name = name
        self._seconds = seconds
        self._work = work

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(self._seconds):
            try:
                fault("timer.due")
                self._work()
                fault("timer.done")
            except Exception as error:  # noqa: BLE001 - a timer outlives any one failure
                log.warning("timer failed", timer=self.name, error=describe(error))


def outbox_relay(name: str, database: Database, settings: ServiceSettings) -> list[Loop]:
    """The relay of a Postgres service's outbox, and the timer that forgets what is old."""
    store = PostgresOutbox(database, lease_seconds=settings.relay_lease_seconds, events_max=settings.claim_events_max)
    refusals = Refusals(name)
    refusals.tell(name, record_in_outbox(database))
    relay = Relay(
        name,
        store,
        Broker(settings.queue_url, seal.load(settings), refusals.note),
        listen_url=database.url,
        pace=pace_of(settings),
    )
    return [
        relay,
        refusals,
        Timer(f"{name} retention", 60.0, lambda: forget(database, settings)),
        Timer(
            f"{name} parked batches",
            settings.parked_ask_seconds,
            lambda: store.ask_again(young_seconds=settings.stale_after_seconds),
        ),
    ]


def pace_of(settings: ServiceSettings) -> Pace:
    return Pace(
        sweep_seconds=settings.relay_sweep_seconds,
        linger_seconds=settings.relay_linger_seconds,
        acknowledgement_seconds=settings.relay_acknowledgement_seconds,
        telling_seconds=settings.relay_telling_seconds,
    )


_FORGET_AT_ONCE = 5_000
_FORGET_TIMES = 50
"""With 5,000 a minute, ten orders a second that travel alone would make more than is forgotten."""


def forget(database: Database, settings: ServiceSettings) -> None:
    """Delete acknowledged batches, processed events and idempotency records whose time is over, a bounded number at a time."""
    statements: tuple[tuple[str, float], ...] = (
        (
            "DELETE FROM outbox_events WHERE id IN (SELECT id FROM outbox_events WHERE status = 'ACKED' AND acked_at <"
            " brokage_now() - make_interval(secs => %(seconds)s) ORDER BY id LIMIT %(limit)s)",
            settings.acked_batches_kept_seconds,
        ),
        (
            "DELETE FROM processed_events WHERE (consumer, event_id) IN (SELECT consumer, event_id FROM processed_events"
            " WHERE processed_at < brokage_now() - make_interval(secs => %(seconds)s) LIMIT %(limit)s)",
            settings.processed_events_kept_seconds,
        ),
        (
            "DELETE FROM idempotency_records WHERE (principal, method, route, key) IN (SELECT principal, method, route, key"
            " FROM idempotency_records WHERE created_at < brokage_now() - make_interval(secs => %(seconds)s) LIMIT %(limit)s)",
            24 * 3600.0,
        ),
    )
    for statement, seconds in statements:
        for _ in range(_FORGET_TIMES):
            deleted = database.run(
                lambda unit, statement=statement, seconds=seconds: (
                    unit.connection.execute(  # type: ignore[misc]
                        statement, {"seconds": seconds, "limit": _FORGET_AT_ONCE}
                    ).rowcount
                )
            )
            fault("retention.deleted")
            if deleted < _FORGET_AT_ONCE:
                break


def run_workers(
    workers: Sequence[ServiceWorker], stop: threading.Event, *, settings: ServiceSettings, on_ready: Callable[[], None]
) -> None:
    """Receive for `workers` in this process until `stop`; a delivery in work is finished first."""
    install_from_environment()
    dramatiq.worker.CONSUMER_RESTART_DELAY_SECS = 1.0
    dramatiq.worker.POST_PROCESS_MESSAGE_RETRY_DELAY_SECS = 1
    refusals = Refusals("worker")
    broker = Broker(settings.queue_url, seal.load(settings), refusals.note)
    right_of_way = RightOfWay(min(_PATIENCE_SECONDS_MAX, settings.relay_lease_seconds / 3))
    consumers = []
    for worker in workers:
        consumer = worker.start()
        consumers.append(consumer)
        refusals.tell(worker.name, consumer.record or (lambda refused: broker.report(message_of(refused))))
        turn = right_of_way.behind if worker.background else right_of_way.ahead
        broker.declare_consumer(worker.name, _receiver(broker, consumer, turn), priority=int(worker.background))
    dramatiq_worker = dramatiq.Worker(
        broker.dramatiq, worker_timeout=100, worker_threads=int(os.environ.get("BROKAGE_WORKER_THREADS", "16"))
    )
    _tell_what_was_lost(broker, [worker.name for worker in workers])
    dramatiq_worker.start()
    telling = threading.Thread(target=refusals.run, args=(stop,), name=refusals.name, daemon=True)
    telling.start()
    on_ready()
    stop.wait()
    dramatiq_worker.stop(timeout=10_000)
    telling.join(_TELLING_SECONDS_MAX)
    for consumer in consumers:
        consumer.close()
    broker.close()


def _tell_what_was_lost(broker: Broker, names: Sequence[str]) -> None:
    """Who died with deliveries in hand cannot say so; whoever starts after it does. Should that fail, their leases run out."""
    try:
        lost = {name: count for name in names if (count := broker.tell_what_was_lost(name))}
    except redis.RedisError as error:
        log.warning("what was lost is not told", error=describe(error))
        return
    if lost:
        log.warning("deliveries lost with their worker", **lost)


def _receiver(
    broker: Broker, consumer: Consumer, turn: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Callable[[bytes], None]:
    """The actor's body: decode, receive, acknowledge. It never raises: whatever is not acknowledged comes again by its lease, and
    dramatiq, which would move a failed message to its own dead letters, has nothing to decide."""

    def receive(data: bytes) -> None:
        try:
            delivery = decode_delivery(data)
        except msgspec.DecodeError as error:
            log.error("undecodable delivery dropped", error=describe(error))
            return
        try:
            consumer.let_others_go_first(delivery)
            with turn():
                acknowledgements = consumer.receive(delivery)
            fault("inbox.before_acknowledge")
            broker.acknowledge(delivery.source, acknowledgements)
            fault("inbox.acknowledged")
        except Unavailable as outage:
            log.warning("delivery deferred", **_about(delivery), error=describe(outage))
            if not outage.stalled:
                _defer(broker, delivery)
        except redis.RedisError as error:
            log.warning("delivery not acknowledged", **_about(delivery), error=describe(error))
        except Exception:
            log.exception("delivery failed", **_about(delivery))

    return receive


def _about(delivery: Delivery) -> dict[str, object]:
    """What of a delivery stands in the log: its first batch is found in the source's outbox."""
    first = delivery.batches[0].id if delivery.batches else None
    return {"source": delivery.source, "batch": first, "batches": len(delivery.batches)}


def _defer(broker: Broker, delivery: Delivery) -> None:
    """Tell the source that it need not wait for the lease, nor count this."""
    deferred = [Acknowledgement(batch.id, Outcome.DEFERRED, batch.deliveries) for batch in delivery.batches]
    with contextlib.suppress(redis.RedisError):
        broker.acknowledge(delivery.source, deferred)


def run_relays(
    relays: Sequence[ServiceRelay], stop: threading.Event, *, settings: ServiceSettings, on_ready: Callable[[], None]
) -> None:
    """Run every loop of `relays` in a thread of its own until `stop`. A loop that ends by an error takes the process with it: the
    supervisor starts it anew."""
    install_from_environment()
    failed = threading.Event()

    def guarded(loop: Loop) -> None:
        try:
            loop.run(stop)
        except BaseException:
            log.exception("loop ended", loop=loop.name)
            failed.set()
            stop.set()

    threads = [
        threading.Thread(target=guarded, args=(loop,), name=loop.name, daemon=True)
        for relay in relays
        for loop in relay.start()
    ]
    for thread in threads:
        thread.start()
    on_ready()
    stop.wait()
    for thread in threads:
        thread.join(5.0)
    if failed.is_set():
        raise SystemExit(1)
