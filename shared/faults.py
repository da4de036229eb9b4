"""Named places where a test may break the process. Without an injector, `fault()` does nothing.

`fault("outbox.before_flush")` stands at a step boundary. A test installs an injector with `inject()`; a whole process takes
one from `BROKAGE_FAULTS=point:kind:nth[,...]` (kinds: error, kill, delay; nth `*`: every time), in the test profile only.

`POINTS` names them all, and for each what is durable next: a test that breaks a step after its commit waits for that. What is
done at each point is in docs/faults.md and tests/faults.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class InjectedFault(Exception):
    """Raised at a fault point by a test. Never raised in production."""


@dataclass(frozen=True, slots=True)
class Point:
    """A step boundary. `owner` is the service, or the part of shared/, whose step it is.

    Args:
        stands: what is done here, and what is not.
        durable: the point that is passed as soon as what follows here is durable or sent; itself, where nothing follows.
    """

    owner: str
    stands: str
    durable: str


_COMMIT = "unit_of_work.committed"
_DOCUMENT = "mongo_inbox.done"
_ACK = "inbox.acknowledged"
_TOLD = "lost.told"

POINTS: dict[str, Point] = {
    # -- a transaction of any service on Postgres
    "unit_of_work.before_flush": Point("unit_of_work", "the work is done; its outbox batches are not written", _COMMIT),
    "unit_of_work.before_commit": Point("unit_of_work", "all is written; nothing is committed", _COMMIT),
    "unit_of_work.committed": Point("unit_of_work", "committed; the caller does not know it", _COMMIT),
    # -- relay
    "relay.before_claim": Point("relay", "acknowledgements are in hand; nothing is claimed", _COMMIT),
    "outbox.acknowledged": Point("relay", "batches are marked acknowledged, not committed", _COMMIT),
    "outbox.leases_ended": Point("relay", "leases of lost deliveries are ended, not committed", _COMMIT),
    "outbox.marked_sent": Point("relay", "batches are marked sent, not committed", _COMMIT),
    "relay.claimed": Point("relay", "batches are claimed; the broker knows nothing of them", "relay.published"),
    "relay.published": Point(
        "relay", "a message is with the broker; others that were claimed with it are not", "relay.published"
    ),
    "relay.refused": Point("relay", "the broker refused; the claims are given back", "relay.refused"),
    "relay.acknowledgements_taken": Point(
        "relay", "acknowledgements are off the broker; nobody has noted them", "relay.acknowledgements_taken"
    ),
    # -- inbox and worker
    "lost.found": Point(
        "worker", "dead workers are known; what they fetched is still with the broker as theirs", _TOLD
    ),
    "lost.taken": Point("worker", "what one had fetched of a queue is off the broker; no source knows", _TOLD),
    "lost.told": Point("worker", "a source is told of a lost delivery; others are not", _TOLD),
    "inbox.waited": Point(
        "inbox", "what may have killed its process has let others go first; nothing is tried", _COMMIT
    ),
    "inbox.received": Point("inbox", "a delivery is in hand; nothing is claimed", _COMMIT),
    "inbox.claimed": Point("inbox", "its batches are claimed in an open transaction; no effect yet", _COMMIT),
    "inbox.applied": Point("inbox", "the effects are written in the open transaction", _COMMIT),
    "inbox.committed": Point("inbox", "the effects are committed; nothing is acknowledged", _ACK),
    "inbox.before_acknowledge": Point("inbox", "acknowledgements are in hand; the source knows nothing", _ACK),
    "inbox.acknowledged": Point("inbox", "acknowledgements are with the broker", _ACK),
    "inbox.marked_split": Point("inbox", "the failed batch is marked to be taken in parts", _COMMIT),
    "inbox.part_applied": Point("inbox", "a part's effects are written, not committed", _COMMIT),
    "inbox.part_committed": Point("inbox", "a part is committed; the others are not", _COMMIT),
    "inbox.attempt_counted": Point("inbox", "an attempt on one event is counted; the event is not tried", _COMMIT),
    "inbox.single_applied": Point("inbox", "one event's effects are written, not committed", _COMMIT),
    "inbox.single_committed": Point("inbox", "one event is done; its batch is not", _COMMIT),
    "inbox.park_written": Point("inbox", "an event is parked in an open transaction", _COMMIT),
    "inbox.finished": Point("inbox", "all parts are done; nothing is acknowledged", _ACK),
    "dead_letters.handled": Point("inbox", "a requeued event has its effect in an open transaction", _COMMIT),
    "principals.applied": Point("inbox", "customers are in the projection, not committed", _COMMIT),
    # -- loops of the relay process
    "timer.due": Point("runtime", "a timer's turn has come; nothing is done", "timer.done"),
    "timer.done": Point("runtime", "a timer's work is done; the next turn is not set", "timer.done"),
    "retention.deleted": Point("runtime", "one kind of old rows is forgotten; the others are not", "timer.done"),
    # -- requests
    "idempotency.marked": Point("edge", "a key is marked as running; nothing is done", _COMMIT),
    "idempotency.committed": Point(
        "edge", "the effect is committed; the key is still marked running", "idempotency.answered"
    ),
    "idempotency.answered": Point("edge", "the key holds the answer; the caller does not", "idempotency.answered"),
    # -- order_service
    "order_service.place.decided": Point("order_service", "it is decided which orders are new", _COMMIT),
    "order_service.place.written": Point("order_service", "new orders, ids and keys are written", _COMMIT),
    "group_commit.committed": Point(
        "order_service", "new orders are committed; no caller knows", "group_commit.committed"
    ),
    "order_service.apply.loaded": Point("order_service", "the orders of a batch are read", _COMMIT),
    "order_service.apply.written": Point("order_service", "the orders of a batch are written", _COMMIT),
    # -- asset_service
    "asset_service.locked": Point("asset_service", "the customers' partitions are locked; nothing is read", _COMMIT),
    "asset_service.folded": Point("asset_service", "reservations and settlements are decided, not written", _COMMIT),
    "asset_service.stored": Point(
        "asset_service", "balances, reservations and ledger are written; no answer is", _COMMIT
    ),
    "transfers.decided": Point("asset_service", "the transfer is known to be new; nothing has moved", _COMMIT),
    "transfers.moved": Point("asset_service", "the balance has moved; transfer and ledger are not written", _COMMIT),
    "transfers.posted": Point("asset_service", "the transfer is in the ledger; it is not told", _COMMIT),
    # -- processor
    "sagas.loaded": Point("processor", "the sagas of a batch are read under the books' locks", _COMMIT),
    "sagas.folded": Point("processor", "the sagas have moved in memory", _COMMIT),
    "sagas.written": Point("processor", "the sagas are written; the queue is not", _COMMIT),
    "sagas.queued": Point("processor", "sagas, queue and trades are written", _COMMIT),
    "matching.decided": Point("processor", "an order is found open under its book's lock", _COMMIT),
    "matching.written": Point("processor", "trades, their sagas and the queue are written", _COMMIT),
    "expiry.locked": Point("processor", "orders whose time is over are found, their books locked", _COMMIT),
    "deadlines.found": Point("processor", "overdue sagas are found; nothing is sent", _COMMIT),
    "deadlines.resent": Point("processor", "their commands are in the outbox again, not committed", _COMMIT),
    # -- customer_service
    "customers.locked": Point("customer_service", "the customer's row is locked; nothing is changed", _COMMIT),
    "customers.said": Point("customer_service", "the customer is changed and it is told, not committed", _COMMIT),
    # -- documents: no transactions, effects carry keys
    "mongo_inbox.handled": Point("mongo_inbox", "the effects are stored; the batch is not noted as done", _DOCUMENT),
    "mongo_inbox.before_done": Point("mongo_inbox", "all effects of the work are stored; nothing is noted", _DOCUMENT),
    "mongo_inbox.done": Point("mongo_inbox", "the batch is noted as done; nothing is acknowledged", _ACK),
    "notifier.contacts_applied": Point("notifier", "contacts are stored; no notification is", "notifier.inserted"),
    "notifier.inserted": Point("notifier", "notifications are stored; the batch is not noted as done", _DOCUMENT),
    "notifier.due": Point("notifier", "the turn of the e-mails has come; none is claimed", "notifier.claimed"),
    "notifier.claimed": Point("notifier", "an e-mail is claimed and its attempt counted", "notifier.sent"),
    "notifier.before_send": Point("notifier", "it may be sent; the mail server knows nothing", "notifier.sent"),
    "notifier.sent": Point("notifier", "the mail server took it; that is not recorded", "notifier.recorded"),
    "notifier.recorded": Point("notifier", "it is recorded as sent", "notifier.recorded"),
    "auditor.acquired": Point("auditor", "the chain's lease is taken; nothing is appended", "auditor.chained"),
    "auditor.chained": Point("auditor", "a piece of records is appended; the head does not know", "auditor.released"),
    "auditor.before_head": Point("auditor", "records are appended; the head is about to be noted", "auditor.released"),
    "auditor.released": Point("auditor", "the head is noted and the lease is free", "auditor.released"),
    "auditor.intake_chained": Point(
        "auditor", "reads of the trail are chained; they still wait", "auditor.intake_dropped"
    ),
    "auditor.intake_dropped": Point("auditor", "chained reads wait no more", "auditor.intake_dropped"),
    "telemetry.due": Point("auditor", "the turn of the telemetry has come; nothing is read", "telemetry.inserted"),
    "telemetry.inserted": Point("auditor", "telemetry is stored; the position is not", "telemetry.positioned"),
    "telemetry.positioned": Point(
        "auditor", "the position is stored; the stream still holds the entries", "telemetry.positioned"
    ),
}
"""Every point, by the name in its call."""

Injector = Callable[[str], None]
_injector: Injector | None = None


def fault(point: str) -> None:
    if _injector is not None:
        _injector(point)


def faults_named(point: str, names: Iterable[str]) -> None:
    """A fault point for each of `names`, as `point/name`: a test may break the process at one particular message."""
    if _injector is not None:
        for name in names:
            _injector(f"{point}/{name}")


@contextmanager
def inject(injector: Injector) -> Iterator[None]:
    """Install `injector` for a block; tests only."""
    global _injector
    previous, _injector = _injector, injector
    try:
        yield
    finally:
        _injector = previous


def install_from_environment() -> None:
    """Install what `BROKAGE_FAULTS` names, when `BROKAGE_PROFILE` is `test`."""
    global _injector
    plan = os.environ.get("BROKAGE_FAULTS")
    if not plan or os.environ.get("BROKAGE_PROFILE") != "test":
        return
    rules = [rule.split(":") for rule in plan.split(",")]
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def injector(point: str) -> None:
        with lock:
            seen[point] += 1
            count = seen[point]
        for name, kind, nth in rules:
            if name == point and (nth == "*" or int(nth) == count):
                _act(point, kind)

    _injector = injector


def _act(point: str, kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind.startswith("delay"):
        time.sleep(float(kind.removeprefix("delay") or 1))
        return
    raise InjectedFault(point)
