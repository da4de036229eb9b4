"""A fault run from its start to its verdict."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.faults import facts as facts_of
from infra.faults import proof, recovery, rest
from infra.faults.client import Client, Http, Session
from infra.faults.history import History
from infra.faults.injector import Fault, Injector
from infra.faults.judge import Judge, Violations
from infra.faults.kinds import KINDS
from infra.faults.people import PROBED, SHARES, endow, register
from infra.faults.report import Report
from infra.faults.system import SETTINGS, NotInTime, System, wait_until
from infra.faults.traffic import Pace, Traffic
from infra.faults.world import Kind, World
from infra.reconcile.report import document
from infra.reconcile.run import reconcile
from infra.reconcile.settings import Settings
from infra.reconcile.stores import Stores
from infra.runtime.failures import RuntimeFailure
from shared.db.engine import DatabaseUnavailable

HISTORY_FILE = "history.jsonl"
_SPRINT_SHARE = 0.04
_SPRINT_SECONDS = (2.0, 30.0)
_WARM_UP_SECONDS = 5.0
_SLOWEST_PACE = 2.0
_EXTENSION = 0.25
_AFTER_SECONDS = 2.0
_REST_SECONDS = 240.0
_READY_SECONDS = 90.0
_RECOVERY_PACE = 4.0
_FINDINGS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `seconds` of faults, at least `orders` orders in them; `samples` of each recovery time, 0 for none.
    `grace_seconds`: what should be at rest is broken once it stood still for so long."""

    seconds: float
    orders: int
    seed: int
    directory: Path
    samples: int = 0
    customers: int = 12
    grace_seconds: float = 5.0
    keep: bool = False
    kinds: tuple[Kind, ...] = KINDS


class FaultRun:
    """The stages of a run, in order: `drive`, `measure`, `settle`, `prove`. A context manager: its system lives inside."""

    def __init__(self, plan: Plan, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.violations = Violations()
        self.report = Report(plan.seed, plan.seconds, self.violations)
        self._say = say
        self._stack = ExitStack()
        self._started = time.monotonic()
        self._traffics = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.plan.directory.mkdir(parents=True, exist_ok=True)
            self.history = stack.enter_context(History(self.plan.directory / HISTORY_FILE))
            self.system = stack.enter_context(System(seed=self.plan.seed, keep=self.plan.keep))
            self._say(f"the system is up in {self.system.data_dir}")
            self.people = register(self.system, self.plan.customers)
            self.judge = Judge(self.people, self.violations)
            self.client = Client(Http(self.system.url), self.history, self.judge)
            self.world = World(self.system, self.client, self.people)
            endow(self.client, self.people)
            self.report.settings = {name: self.system.environment.get(name, value) for name, value in SETTINGS.items()}
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.world.ending.set()
        self._stack.close()

    # -- with faults -----------------------------------------------------------------------------------------------------

    def drive(self) -> None:
        """Traffic: a sprint in peace, then under faults a sprint and the long paced part."""
        plan = self.plan
        sprint = min(max(plan.seconds * _SPRINT_SHARE, _SPRINT_SECONDS[0]), _SPRINT_SECONDS[1])
        self._say(f"{sprint:.0f} s of traffic without faults")
        self._sprint(min(sprint, _WARM_UP_SECONDS))
        self.report.calm_throughput = self._sprint(sprint)
        injector = Injector(self.world, plan.kinds, seed=plan.seed, seconds=plan.seconds, say=self._show)
        began = time.monotonic()
        injector.start()
        try:
            self._say(f"{plan.seconds:.0f} s of traffic with faults, seed {plan.seed}")
            self.report.faulty_throughput = self._sprint(sprint * 2)
            self._paced(plan.seconds - sprint * 2, began)
        finally:
            injector.stop()
            self.report.faults = injector.faults
            self.report.seconds = time.monotonic() - began

    def _show(self, fault: Fault) -> None:
        self._say(fault.line())

    def _sprint(self, seconds: float) -> float:
        """Acknowledged orders a second of clients who wait for nothing but answers."""
        before = self._acknowledged()
        pace = Pace(0, seconds)
        pace.flat_out = True
        with self._traffic(pace):
            time.sleep(seconds)
            return (self._acknowledged() - before) / seconds

    def _paced(self, seconds: float, began: float) -> None:
        """The remaining orders over the remaining time; somewhat longer when faults have held them up."""
        left = max(self.plan.orders - self._acknowledged(), int(seconds * _SLOWEST_PACE))
        before, started = self._acknowledged(), time.monotonic()
        with self._traffic(Pace(left, seconds)):
            deadline = started + seconds
            while time.monotonic() < deadline or (
                self._acknowledged() < self.plan.orders and time.monotonic() < deadline + seconds * _EXTENSION
            ):
                time.sleep(0.1)
            self.report.paced_throughput = (self._acknowledged() - before) / (time.monotonic() - started)

    @contextmanager
    def _traffic(self, pace: Pace) -> Iterator[Traffic]:
        self._traffics += 1
        traffic = Traffic(self.client, self.people, pace, seed=self.plan.seed * 1000 + self._traffics)
        traffic.start()
        try:
            yield traffic
        finally:
            traffic.stop()
            for error in traffic.errors:
                self.violations.add("the run itself", error)

    def _acknowledged(self) -> int:
        return self.history.orders_acknowledged

    # -- without faults --------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Everything as it should be: links, processes, the supervisor."""
        self.system.links.heal()
        self.system.resume_all()
        try:
            if self.system.process("supervisor") is None:
                self.system.start()
            self.system.wait_ready(seconds=_READY_SECONDS)
        except (NotInTime, RuntimeFailure) as error:
            self.violations.add("comes back by itself", str(error))
        self.world.ending.clear()

    def measure(self) -> None:
        """Recovery times, one fault at a time."""
        if not self.plan.samples:
            return
        self._say(f"recovery, {self.plan.samples} samples of each")
        try:
            with self._traffic(Pace(10**9, 10**9 / _RECOVERY_PACE)):
                self.report.recovery = recovery.measure(
                    self.world, self.plan.samples, seed=self.plan.seed, say=self._say
                )
        except NotInTime as error:
            self.violations.add("recovers", str(error))

    def settle(self) -> None:
        """Ask all open questions again, and wait until nothing is on its way."""
        with self._traffic(Pace(0, 1)):
            time.sleep(_AFTER_SECONDS)
        self.report.requests = self.history.counts()
        started = time.monotonic()
        sessions: dict[str, Session] = {
            each.username: each for each in (self.people.admin, self.people.broker, *self.people.traders)
        }
        asked = rest.open_questions(self.history.requests, self.plan.seed)
        self._say(f"asking {len(asked)} requests again, twice")
        self.report.asked_again = rest.resolve(self.client, sessions, asked)
        with Stores(self.system.environment, Settings()) as stores:
            if not rest.wait_at_rest(stores, _REST_SECONDS, self._say):
                self.violations.add("39 at rest", f"batches or sagas still wait after {_REST_SECONDS:.0f} s")
        self.report.drain_seconds = time.monotonic() - started

    def prove(self) -> Report:
        """The verdict, from the stores and from the history. Every call judges the stores as they are then."""
        self._say("checking the invariants")
        customers = [session.customer_id for session in self.people.traders]
        settings = Settings(findings_max=_FINDINGS_MAX, grace_seconds=self.plan.grace_seconds)
        with Stores(self.system.environment, settings) as stores:
            facts = self._patiently(lambda: facts_of.load(stores, customers, (*SHARES, PROBED)))
            self.report.orders, self.report.trades = len(facts.orders), len(facts.trades)
            self.violations.extend(proof.violations(self.history.requests, facts, self.judge.final))
            self.report.invariants = list(self._invariants(stores))
        self.report.took_seconds = time.monotonic() - self._started
        self.report.write(self.plan.directory)
        return self.report

    def _patiently(self, load: Callable[[], facts_of.Facts]) -> facts_of.Facts:
        def loaded() -> facts_of.Facts | bool:
            with contextlib.suppress(DatabaseUnavailable):
                return load()
            return False

        found = wait_until(loaded, 60.0, "the stores")
        assert isinstance(found, facts_of.Facts)
        return found

    def _invariants(self, stores: Stores) -> Iterator[dict[str, object]]:
        """Those of `brokage reconcile`; what the run has forged itself is not the system's fault."""
        forged = {f"{what} {id}" for id in self.world.forged for what in ("dead letter", "processed event")}
        for check, examined in reconcile(stores):
            ours = [finding for finding in examined.findings if finding.row in forged]
            examined.findings = [finding for finding in examined.findings if finding.row not in forged]
            examined.broken -= len(ours)
            for finding in examined.findings:
                self.violations.add(f"contract {check.number}", f"{finding.row}: {finding.reason}")
            if examined.broken > len(examined.findings):
                self.violations.add(f"contract {check.number}", f"{examined.broken} rows in all")
            yield document(check, examined)


def run(plan: Plan, say: Callable[[str], None]) -> Report:
    """All of it. The report is written even if a stage fails, which is a violation of its own."""
    with FaultRun(plan, say) as fault_run:
        stages = (fault_run.drive, fault_run.heal, fault_run.measure, fault_run.heal, fault_run.settle, fault_run.prove)
        for stage in stages:
            try:
                stage()
            except Exception as error:  # noqa: BLE001 - what has been seen by then is told all the same
                fault_run.violations.add("the run itself", f"{stage.__name__}: {error!r}")
                say(f"{stage.__name__} failed: {error!r}")
        fault_run.report.write(plan.directory)
        return fault_run.report
