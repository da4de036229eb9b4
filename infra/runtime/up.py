"""`brokage up`: every step of a start, the watch, and the stop in order."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from infra.migrate import pending
from infra.runtime.data_directory import DEFAULT, DataDirectory, write_private
from infra.runtime.failures import CannotStart, RuntimeFailure, StartFailed
from infra.runtime.identity import identity
from infra.runtime.process import ManagedProcess, ProcessSpec, State, stop_together
from infra.runtime.supervisor import TICK_SECONDS, Supervisor
from infra.runtime.system import POINTER
from infra.servers import DATABASES, EmbeddedServers
from infra.servers.ports import LOOPBACK, is_free

READY_SECONDS = 60.0
PROBE_SECONDS = 2.0
LOG_CHECK_SECONDS = 10.0
# Together below the 20 s in which everything has stopped.
STOP_SECONDS = {"api": 4.0, "relay": 3.0, "worker": 5.0}
DEMO_USERS = ("admin", "broker", "auditor", "trader1", "trader2", "trader3")


@dataclass(frozen=True, slots=True)
class Options:
    """What `brokage up` was asked for."""

    data_dir: Path = DEFAULT
    port: int = 8000
    demo: bool = False
    workers: int = 8


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived; raised out of whatever the start was doing."""


class Up:
    """One run, from the checks to the last process stopped."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.data = DataDirectory(options.data_dir)
        self.servers = EmbeddedServers(self.data)
        self.children: list[ManagedProcess] = []
        self.environment: dict[str, str] = {}
        self._stopping = False

    def run(self) -> None:
        """Start, watch until SIGINT or SIGTERM, stop.

        Raises:
            CannotStart: a check failed; nothing was started.
            StartFailed: something did not come up; everything has been stopped.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        try:
            self._start()
            self._watch()
        except Stopped:
            say("stopping")
        finally:
            self._stopping = True
            self._stop()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # A second signal must not tear the orderly stop apart.
        if not self._stopping:
            self._stopping = True
            raise Stopped

    # -- start ---------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        with step("check"):
            self._check()
        with step("servers"):
            self.environment = self._child_environment(self.servers.start())
        self._write_run()
        with step("migrate"):
            if pending(self.environment):
                self._command("migrate")
        with step("seed"):
            self._command("seed", *(["--demo"] if self.options.demo else []))
        with step("services"):
            self._start_services()
        if self.options.demo:
            for user in DEMO_USERS:
                say(f"  sign in as {user:<8} with password demo-{user}")
        say(f"ready {self._api_url()}")

    def _check(self) -> None:
        self.data.open()
        for name in self.data.stop_orphans():
            say(f"  stopped {name}, left by a killed run")
        if not is_free(self.options.port):
            raise CannotStart(f"port {self.options.port} is taken; choose another with --port")
        self.data.rotate_logs_at_start()
        self._leave_pointer()

    def _leave_pointer(self) -> None:
        # Only a convenience for the other commands: a directory where it cannot be written is no reason not to start.
        with contextlib.suppress(OSError):
            POINTER.parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
            write_private(POINTER, f"{self.data.path}\n")

    def _child_environment(self, urls: dict[str, str]) -> dict[str, str]:
        return urls | {
            "BROKAGE_PROFILE": os.environ.get("BROKAGE_PROFILE") or "dev",
            "BROKAGE_WORKER_THREADS": str(self.options.workers),
            "BROKAGE_DATA_DIR": str(self.data.path),
        }

    def _command(self, *arguments: str) -> None:
        """Run one of our own commands to its end, apart, so that what it imports does not stay in memory here."""
        log = self.data.log(arguments[0])
        with log.open("ab") as stream:
            code = subprocess.run(
                [sys.executable, "-m", "infra", *arguments],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        if code:
            raise StartFailed(f"{arguments[0]} failed (exit {code}); see {log}")

    def _start_services(self) -> None:
        self.children = [self._api(), self._looping("worker"), self._looping("relay")]
        for child in self.children:
            child.spawn()
        watch = Supervisor([*self.servers.processes, *self.children], say, self._write_run)
        deadline = time.monotonic() + READY_SECONDS
        while waiting := [child for child in self.children if child.state is not State.READY]:
            watch.step()
            for child in waiting:
                if child.state is State.FAILED or time.monotonic() > deadline:
                    raise StartFailed(f"{child.name} did not become ready; see {child.spec.log}")
            time.sleep(TICK_SECONDS)
        self._supervisor = watch
        self._write_run()

    def _api(self) -> ManagedProcess:
        command = [sys.executable, "-m", "infra", "serve", "all", "--port", str(self.options.port)]
        return self._child("api", command, lambda pid: answers_ready(self.options.port))

    def _looping(self, role: str) -> ManagedProcess:
        ready = self.data.path / f"{role}.ready"
        command = [sys.executable, "-m", "infra", role, "all"]
        return self._child(role, command, lambda pid: ready.is_file() and ready.read_text() == str(pid), ready)

    def _child(self, role: str, command: Sequence[str], probe: Any, ready: Path | None = None) -> ManagedProcess:
        environment = os.environ | self.environment
        if ready:
            environment |= {"BROKAGE_READY_FILE": str(ready)}
        spec = ProcessSpec(
            name=role,
            role=role,
            service="all",
            command=command,
            log=self.data.log(role),
            probe=probe,
            environment=environment,
            before_spawn=(lambda: ready.unlink(missing_ok=True)) if ready else (lambda: None),
            stop_seconds=STOP_SECONDS[role],
        )
        return ManagedProcess(spec, self.data.record)

    # -- while it runs -------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        next_log_check = 0.0
        while True:
            self._supervisor.step()
            if time.monotonic() >= next_log_check:
                self.data.bound_logs()
                next_log_check = time.monotonic() + LOG_CHECK_SECONDS
            time.sleep(TICK_SECONDS)

    def _api_url(self) -> str:
        return f"http://{LOOPBACK}:{self.options.port}"

    def _write_run(self) -> None:
        ready = bool(self.children) and all(child.state is State.READY for child in self.children)
        own = {"name": "supervisor", "service": None, "role": "supervisor", "pid": os.getpid()}
        processes: list[dict[str, Any]] = [own | {"state": "ready" if ready else "starting"}]
        for process in [*self.children, *self.servers.processes]:
            spec = process.spec
            entry = {"name": spec.name, "service": spec.service, "role": spec.role, "pid": process.pid}
            processes.append(entry | {"state": str(process.state)})
        urls = {"api": self._api_url()}
        urls |= {"redis": self.environment["BROKAGE_REDIS_URL"], "mongo": self.environment["BROKAGE_MONGO_URL"]}
        urls |= {key: self.environment[variable] for _, variable, key in DATABASES.values()}
        supervisor = {"pid": os.getpid(), "identity": identity(os.getpid())}
        ports = {server.name: server.port for server in self.servers.all} | {"api": self.options.port}
        self.data.write_run(
            {
                "supervisor": supervisor,
                "processes": processes,
                "urls": urls,
                "ports": ports,
                "environment": self.environment,
            }
        )

    # -- stop ----------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Requests first, then what works on them, then the servers all of them use."""
        for role in ("api", "relay", "worker"):
            stop_together([child for child in self.children if child.spec.role == role])
        self.servers.stop()
        self.data.close()


def say(line: str) -> None:
    """One line of output, seen at once."""
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more; the run goes on
        print(line, flush=True)


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Say how long a step of the start took, once it is done."""
    started = time.monotonic()
    yield
    say(f"{name:<9} {time.monotonic() - started:6.2f} s")


def answers_ready(port: int) -> bool:
    """Tell whether the API there answers 200 to `/health/ready`."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


__all__ = ["Options", "RuntimeFailure", "Up"]
