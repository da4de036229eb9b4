"""One cell of the matrix after the other, in one environment: tell a story, break it once, let it heal, compare."""

import email
import multiprocessing
import os
import shutil
import signal
import smtplib
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pymongo.errors
import redis
import structlog
from aiosmtpd.controller import Controller
from structlog.testing import capture_logs

from infra.migrate import migrate_all
from infra.reconcile.run import reconcile
from infra.reconcile.settings import Settings as Patience
from infra.reconcile.stores import Stores
from infra.servers import EmbeddedServers
from infra.servers.ports import free_port
from shared.faults import InjectedFault
from shared.idempotency import IdempotencyKeyInUse
from shared.messaging import seal
from tests.faults.matrix_points import Boundary, Kind, durable
from tests.faults.matrix_stories import STORIES, Facts, Story, found_customers, open_the_market, outcome, tell
from tests.faults.matrix_system import LEASE_SECONDS, Act, Death, System, short_times

_LOST_WORDS = "lost by the matrix"
_TAKE_OVER_SECONDS = 1.5
_DUPLICATE_SECONDS = 0.1
_JOIN_SECONDS = 20.0
_CHILD_SECONDS = 60.0
_LOST: Mapping[str, Callable[[], Exception]] = {
    "unit_of_work.committed": lambda: psycopg.OperationalError(_LOST_WORDS),
    "lost.told": lambda: redis.ConnectionError(_LOST_WORDS),
    "inbox.acknowledged": lambda: redis.ConnectionError(_LOST_WORDS),
    "relay.published": lambda: redis.ConnectionError(_LOST_WORDS),
    "idempotency.answered": lambda: redis.ConnectionError(_LOST_WORDS),
    "mongo_inbox.done": lambda: pymongo.errors.AutoReconnect(_LOST_WORDS),
    "notifier.inserted": lambda: pymongo.errors.AutoReconnect(_LOST_WORDS),
    "notifier.claimed": lambda: pymongo.errors.AutoReconnect(_LOST_WORDS),
    "notifier.recorded": lambda: pymongo.errors.AutoReconnect(_LOST_WORDS),
    "auditor.chained": lambda: pymongo.errors.AutoReconnect(_LOST_WORDS),
    "auditor.released": lambda: pymongo.errors.AutoReconnect(_LOST_WORDS),
    "telemetry.inserted": lambda: pymongo.errors.AutoReconnect(_LOST_WORDS),
    "notifier.sent": lambda: smtplib.SMTPServerDisconnected(_LOST_WORDS),
}


class Trap:
    """Springs once, where its boundary says, and does what its kind says."""

    def __init__(self, system: System, boundary: Boundary, kind: Kind, *, really_die: bool = False) -> None:
        self._system, self.boundary, self._kind = system, boundary, kind
        self._really_die = really_die
        self._durable = durable(boundary)
        self._lock = threading.Lock()
        self.sprung = False
        self.struck = False
        self._waiting_in: int | None = None
        self.others: list[threading.Thread] = []
        self.other_errors: list[BaseException] = []
        self.passes_by_others = 0

    def __call__(self, point: str, act: Act) -> None:
        if self._waiting_in == threading.get_ident() and point == self._durable:
            self._waiting_in = None
            self._lose()
        if threading.current_thread() in self.others:
            self.passes_by_others += 1
            return
        if self.sprung or point != self.boundary.point or not fits(self.boundary, act):
            return
        with self._lock:
            if self.sprung:
                return
            self.sprung = True
        self.act, self.at = act, len(act.points)
        self._spring(act)

    def _spring(self, act: Act) -> None:
        if self._kind is Kind.ERROR:
            self.struck = True
            raise InjectedFault(self.boundary.point)
        if self._kind is Kind.COMMIT_THEN_ERROR:
            if self._durable == self.boundary.point:
                self._lose()
            self._waiting_in = threading.get_ident()
        elif self._kind is Kind.DEATH:
            self.struck = True
            if self._really_die:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Death
        elif self._kind is Kind.DELAY:
            time.sleep(LEASE_SECONDS * 1.4)
            self._beside(lambda: self._take_over(act), _TAKE_OVER_SECONDS)
        else:
            # Valkey may forget at any moment; the mark there would turn a repeated request away at the door.
            self._system.forget_marks()
            self._beside(lambda: self._system.perform(act, self._system.standby), _DUPLICATE_SECONDS)

    def _lose(self) -> None:
        self.struck = True
        raise _LOST.get(self._durable, lambda: InjectedFault(self._durable))()

    def _take_over(self, act: Act) -> None:
        """What others do meanwhile: the client asks again, and another process of each kind works."""
        standby = self._system.standby
        if act.is_request:
            self._system.request(act.name.removeprefix("request "), act.work, standby)
        self._system.drain(lambda: standby, until=self._resumed.is_set)

    def _beside(self, work: Callable[[], Any], seconds: float) -> None:
        """Let `work` go on in a thread until it ends, or for as long as it can wait for what is locked here."""
        self._resumed = threading.Event()

        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test's own thread says it
                self.other_errors.append(error)

        other = threading.Thread(target=guarded, daemon=True)
        self.others.append(other)
        other.start()
        other.join(seconds)
        self._resumed.set()
        self.struck = True

    def join(self) -> None:
        for other in self.others:
            other.join(_JOIN_SECONDS)
            assert not other.is_alive(), "the other process hangs"
        unexpected = [error for error in self.other_errors if not isinstance(error, IdempotencyKeyInUse)]
        assert unexpected == []


def fits(boundary: Boundary, act: Act) -> bool:
    return act.name.startswith(boundary.during) and (not boundary.message or boundary.message in act.types)


def undisturbed_way(boundary: Boundary, acts: list[Act]) -> list[str] | None:
    """The points that an act comes by after the boundary; None when there is no such act."""
    for act in acts:
        if fits(boundary, act) and boundary.point in act.points:
            return act.points[act.points.index(boundary.point) + 1 :]
    return None


class Matrix:
    """Servers of its own, customers without a past for each cell, and the undisturbed ending of each story."""

    def __init__(self, *, real_deaths: bool) -> None:
        self._real_deaths = real_deaths
        self._stack = ExitStack()
        self._customers: dict[bool, list[int]] = {True: [], False: []}
        self._undisturbed: dict[str, tuple[Any, list[Act]]] = {}
        self.mailbox = Mailbox()

    def open(self) -> None:
        # Not pytest's own directory: as root, Postgres runs as somebody else, who must be able to enter.
        directory = Path(tempfile.mkdtemp(prefix="brokage-matrix-"))
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o711)
        servers = self._stack.enter_context(EmbeddedServers(directory, environ={}))
        seal.ensure(Path(servers.environment["BROKAGE_KEY_DIR"]))
        migrate_all(servers.environment)
        controller = Controller(self.mailbox, hostname="127.0.0.1", port=free_port())
        controller.start()
        self._stack.callback(controller.stop)
        self._stack.enter_context(short_times())
        self._environment = {
            **servers.environment,
            "BROKAGE_PROFILE": "test",
            "BROKAGE_SMTP_URL": f"smtp://127.0.0.1:{controller.port}",
        }
        self.system = System(self._environment)
        self._stack.callback(lambda: self.system.close())
        open_the_market(self.system)

    def close(self) -> None:
        self._stack.close()

    # -- a cell ----------------------------------------------------------------------------------------------------------

    def check(self, boundary: Boundary, kind: Kind) -> None:
        story = STORIES[boundary.story]
        undisturbed, acts = self._undisturbed_ending(boundary.story)
        way = undisturbed_way(boundary, acts)
        assert way is not None, f"the story {boundary.story} does not come by {boundary.name}"
        facts = self._facts(story)
        if kind is Kind.DEATH and self._real_deaths:
            self._die(boundary, facts)
            self._tell(story, facts)
        else:
            trap = Trap(self.system, boundary, kind)
            self._tell(story, facts, trap)
            assert trap.sprung, "the boundary was not reached"
            assert trap.struck, "the fault did not strike"
            assert self._had_effect(trap, kind, way), "the fault had no effect"
        assert self._ending(story, facts) == undisturbed
        self._reconcile()

    def _had_effect(self, trap: Trap, kind: Kind, way: list[str]) -> bool:
        """Another process came by fault points meanwhile; or the fault surfaced, was logged, or sent its act other ways."""
        if kind in (Kind.DELAY, Kind.DUPLICATE):
            return trap.passes_by_others > 0
        said = any(word in str(entry) for entry in self._logged for word in ("InjectedFault", _LOST_WORDS))
        return bool(self.system.surfaced) or said or trap.act.points[trap.at :] != way

    def _tell(self, story: Story, facts: Facts, trap: Trap | None = None) -> list[Act]:
        """What was done until all was at rest."""
        system = self.system
        system.surfaced, system.acts = [], []
        system.injector = trap or (lambda point, act: None)
        try:
            with system.watched(), capture_logs([structlog.processors.format_exc_info]) as self._logged:
                tell(system, story, facts)
                if trap is not None:
                    trap.join()
                    system.timers = story.timers
                    system.drain()
        finally:
            system.injector = lambda point, act: None
            system.timers, system.held_back, system.away = (), set(), set()
        return system.acts

    def _undisturbed_ending(self, name: str) -> tuple[Any, list[Act]]:
        if name not in self._undisturbed:
            story = STORIES[name]
            facts = self._facts(story)
            acts = self._tell(story, facts)
            assert self.system.surfaced == [], "the undisturbed story is disturbed"
            self._undisturbed[name] = (self._ending(story, facts), acts)
            self._reconcile()
        return self._undisturbed[name]

    def _facts(self, story: Story) -> Facts:
        waiting = self._customers[story.mail]
        if len(waiting) < 2:
            waiting.extend(found_customers(self.system, mail=story.mail))
        facts = Facts([waiting.pop(), waiting.pop()])
        story.prepare(self.system, facts)
        return facts

    def _ending(self, story: Story, facts: Facts) -> Any:
        ending = outcome(self.system, facts)
        if story.mail:
            ending["mails"] = len(set(self.mailbox.ids_to(self._addresses(facts))))
        return ending

    def _addresses(self, facts: Facts) -> list[str]:
        with self.system.primary.databases["customer_service"].read() as connection:
            rows = connection.execute("SELECT email FROM customers WHERE id = ANY(%s)", (facts.customers,)).fetchall()
        return [row["email"] for row in rows]

    def _reconcile(self) -> None:
        patience = Patience(grace_seconds=0.2, delivery_seconds=0.0, overdue_seconds=60.0)
        with Stores(self._environment, patience) as stores:
            broken = {
                check.title: examined.findings
                for check, examined in reconcile(stores)
                if examined.broken or examined.moving
            }
        assert broken == {}

    def _die(self, boundary: Boundary, facts: Facts) -> None:
        """Tell the story in another process, which kills itself at the boundary."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.faults.matrix_cell"])
        child = context.Process(target=_tell_and_die, args=(self._environment, boundary, facts))
        child.start()
        child.join(_CHILD_SECONDS)
        if child.is_alive():
            child.kill()
            child.join()
            raise AssertionError("the other process hangs")
        assert child.exitcode == -signal.SIGKILL, "the boundary was not reached"
        facts.first_life = False


def _tell_and_die(environment: Mapping[str, str], boundary: Boundary, facts: Facts) -> None:
    with short_times():
        system = System(environment)
        system.injector = Trap(system, boundary, Kind.DEATH, really_die=True)
        with system.watched():
            tell(system, STORIES[boundary.story], facts)


class Mailbox:
    """A mail server that keeps what it gets."""

    def __init__(self) -> None:
        self._received: list[tuple[list[str], str]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content)
        self._received.append((list(envelope.rcpt_tos), message["Message-ID"]))
        return "250 taken"

    def ids_to(self, addresses: list[str]) -> list[str]:
        return [id for recipients, id in self._received if set(recipients) & set(addresses)]
