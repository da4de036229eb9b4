"""The system that is broken: started by the machinery of `brokage up` in a directory of its own, its processes hit by pid."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import psutil  # type: ignore[import-untyped]

from infra.faults.linked_run import LINKS, with_port
from infra.faults.links import Link, Links
from infra.runtime.children import ROOT
from infra.runtime.failures import NoSystem, StartFailed
from infra.runtime.running import find_system
from infra.servers.ports import LOOPBACK, free_port
from infra.servers.postgres import SUPERUSER

T = TypeVar("T")

START_SECONDS = 120.0
STOP_SECONDS = 40.0
READY_SECONDS = 60.0
POLL_SECONDS = 0.05
START_ATTEMPTS = 3
CHILDREN = ("api", "worker", "relay")
SERVERS = ("postgres", "valkey", "mongo")
SETTINGS = {
    "BROKAGE_PROFILE": "test",
    # What a lease guards comes again when it is over: the shorter, the more often in a run.
    "BROKAGE_RELAY_LEASE_SECONDS": "3",
    "BROKAGE_RELAY_SWEEP_SECONDS": "0.5",
    "BROKAGE_SAGA_ANSWER_SECONDS": "20",
    "BROKAGE_ARGON2_TIME_COST": "1",
    "BROKAGE_ARGON2_MEMORY_KIB": "64",
    "BROKAGE_ACCESS_TOKEN_SECONDS": "600",
}
"""What the system runs with; what the caller's environment sets of it comes first."""
_EMBEDDED = tuple(variable for variable, _ in LINKS.values())


class NotInTime(Exception):
    """A condition did not come true in the time it was given."""


def wait_until(predicate: Callable[[], T | Literal[False]], seconds: float, what: str) -> T:
    """What `predicate` answers as soon as that is true. Raises NotInTime."""
    deadline = time.monotonic() + seconds
    while not (found := predicate()):
        if time.monotonic() > deadline:
            raise NotInTime(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
    return found


class System:
    """Context manager; at its end everything is stopped and the directory is gone, unless `keep`."""

    def __init__(self, *, seed: int = 0, keep: bool = False) -> None:
        # As root, Postgres runs as somebody else, who must be able to enter.
        self.directory = Path(tempfile.mkdtemp(prefix="brokage-faults-"))
        self.directory.chmod(0o711)
        self.data_dir = self.directory / "data"
        self.links = Links([Link(name, self._upstream(server), seed) for name, (_, server) in LINKS.items()])
        self._output = self.directory / "output"
        self._port = free_port()
        self._keep = keep
        self._up: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.links.__enter__()
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.links.heal()
        try:
            if self._up is not None and self._up.poll() is None:
                self.resume_all()
                self.stop()
        finally:
            if self._up is not None and self._up.poll() is None:
                self._up.kill()
                self._up.wait()
            self.links.__exit__(kind, error, trace)
            if not self._keep:
                shutil.rmtree(self.directory, ignore_errors=True)

    def _upstream(self, server: str) -> Callable[[], int]:
        return lambda: int(json.loads((self.data_dir / "ports.json").read_text(encoding="utf-8"))[server])

    # -- the supervisor ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Run `up` until it is ready. A start that fails is tried again; what a killed run left may be in the way of one."""
        for attempt in range(1, START_ATTEMPTS + 1):
            self._spawn()
            with contextlib.suppress(NotInTime):
                wait_until(self._is_up_or_ended, START_SECONDS, "the start")
            if self._said_ready():
                return
            self._end()
            if attempt == START_ATTEMPTS:
                raise StartFailed(f"the system did not start:\n{self.output()[-2000:]}")

    def _spawn(self) -> None:
        given = {key: value for key, value in os.environ.items() if key not in _EMBEDDED}
        ports = json.dumps({link.name: link.port for link in self.links.all})
        with self._output.open("w") as output:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "infra.faults.linked_run", str(self.data_dir), str(self._port), ports],
                cwd=ROOT,
                env=SETTINGS | given,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches us alone; we stop it in order.
                start_new_session=True,
            )

    def _said_ready(self) -> bool:
        return "\nready " in self.output() and self._up is not None and self._up.poll() is None

    def _is_up_or_ended(self) -> bool:
        return self._said_ready() or (self._up is not None and self._up.poll() is not None)

    def _end(self) -> None:
        assert self._up is not None
        if self._up.poll() is None:
            self._up.kill()
        self._up.wait()

    def output(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace") if self._output.exists() else ""

    def kill_supervisor(self) -> None:
        """SIGKILL, and nothing else: who starts it again is the caller."""
        self._end()

    def stop(self) -> int:
        """As Ctrl-C does; the exit code."""
        assert self._up is not None
        self._up.send_signal(signal.SIGINT)
        try:
            return self._up.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._end()
            return -1

    @property
    def supervisor_pid(self) -> int:
        assert self._up is not None
        return self._up.pid

    # -- its processes -------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    def process(self, role: str) -> dict[str, Any] | None:
        """As `status` shows it; None while nothing of the kind is there."""
        try:
            found = [each for each in find_system(self.data_dir).processes if each["role"] == role]
        except NoSystem:
            return None
        return found[0] if found else None

    def pid(self, role: str) -> int:
        """Raises NotInTime when it does not come up."""

        def live() -> int | Literal[False]:
            process = self.process(role)
            pid = process["pid"] if process else None
            return pid if pid is not None and psutil.pid_exists(pid) else False

        return wait_until(live, READY_SECONDS, f"a live {role}")

    def is_ready(self, role: str) -> bool:
        process = self.process(role)
        return process is not None and process["state"] == "ready" and psutil.pid_exists(process["pid"])

    def wait_ready(self, *roles: str, seconds: float = READY_SECONDS) -> None:
        for role in roles or (*CHILDREN, *SERVERS):
            wait_until(lambda role=role: self.is_ready(role), seconds, f"{role} ready")  # type: ignore[misc]

    def signal(self, role: str, number: signal.Signals) -> int:
        """Send it; the pid that got it."""
        pid = self.pid(role)
        os.kill(pid, number)
        return pid

    def wait_replaced(self, role: str, pid: int, seconds: float = READY_SECONDS) -> int:
        """Wait until another process of that role is ready; its pid."""

        def replaced() -> int | Literal[False]:
            process = self.process(role)
            if process is None or process["pid"] == pid or process["state"] != "ready":
                return False
            found: int = process["pid"]
            return found

        return wait_until(replaced, seconds, f"another {role}")

    def resume_all(self) -> None:
        """SIGCONT to everything, so that nothing stays stopped."""
        for role in (*CHILDREN, *SERVERS):
            process = self.process(role)
            if process is not None and process["pid"] is not None:
                with contextlib.suppress(OSError):
                    os.kill(process["pid"], signal.SIGCONT)

    # -- its servers, past the links -----------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """The settings of its services with the servers' own addresses. Raises NoSystem."""
        found = find_system(self.data_dir).environment
        ports = json.loads((self.data_dir / "ports.json").read_text(encoding="utf-8"))
        return found | {variable: with_port(found[variable], ports[server]) for variable, server in LINKS.values()}

    def superuser_url(self, database: str = "postgres") -> str:
        password = json.loads((self.data_dir / "secrets.json").read_text(encoding="utf-8"))[SUPERUSER]
        port = json.loads((self.data_dir / "ports.json").read_text(encoding="utf-8"))["postgres"]
        return f"postgresql://{SUPERUSER}:{password}@{LOOPBACK}:{port}/{database}?connect_timeout=5"
