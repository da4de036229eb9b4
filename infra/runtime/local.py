"""`brokage up`: the checks, every step of a start, the watch, and the stop in order."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from infra.backup.schedule import COMMAND, BackupTimer
from infra.backup.settings import BackupSettings
from infra.runtime.children import HOST, Children
from infra.runtime.data_directory import DEFAULT, UNFINISHED, DataDirectory
from infra.runtime.failures import CannotStart, StartFailed
from infra.runtime.gate import open_gate
from infra.runtime.identity import identity
from infra.runtime.listening import listen
from infra.runtime.process import ManagedProcess, State, stop_together
from infra.runtime.running import leave_pointer
from infra.runtime.seeding import Seeding
from infra.runtime.supervisor import POLL_SECONDS, Supervisor
from infra.servers import DATABASES, EmbeddedServers
from infra.servers.ports import free_port
from infra.services import ALL, choose

PUBLIC = "api"
READY_SECONDS = 120.0
ENDINGS_AT_START_MAX = 3
LOOK_SECONDS_MAX = 30.0
STOP_ORDER = (COMMAND, "api", "relay", "worker", "seed", "migrate")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Options:
    """What `up` was asked for. `workers`: threads of a worker process, None for its default."""

    data_dir: Path = DEFAULT
    port: int = 8000
    demo: bool = False
    workers: int | None = None
    split: bool = False


class _Stopped(BaseException):
    """A signal to stop arrived; raised out of whatever the start was doing."""


class LocalRun:
    """One run, from the checks to the last process stopped."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.data = DataDirectory(options.data_dir)
        self.servers = EmbeddedServers(self.data)
        self.environment: dict[str, str] = {}
        self.children: list[ManagedProcess] = []
        self._once: list[ManagedProcess] = []
        backups = BackupSettings.of(os.environ)
        self._backups = BackupTimer(backups, self._make_backup_process)
        self._look_seconds = max(POLL_SECONDS, min(LOOK_SECONDS_MAX, backups.cut_seconds))
        self._sockets: dict[str, socket.socket] = {}
        self._supervisor = Supervisor(say, self._changed)
        self._writing = threading.Lock()
        self._state = State.STARTING
        self._raise_on_signal = True
        self._stop = threading.Event()

    def run(self) -> None:
        """Start, watch until SIGINT or SIGTERM, stop.

        Raises:
            CannotStart: a check failed; nothing was started.
            StartFailed: something did not come up; everything has been stopped.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        try:
            self._start()
            self._raise_on_signal = False
            self._watch()
            say("stopping")
        except _Stopped:
            say("stopping")
        finally:
            self._raise_on_signal = False
            self._stop_all()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()
        if self._raise_on_signal:
            # Once: a second signal must not tear the orderly stop apart.
            self._raise_on_signal = False
            raise _Stopped

    # -- start ---------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        started = time.monotonic()
        with step("checks"):
            self._check()
        self._spawn_children()
        seeding = Seeding(self.data, self.options.demo)
        seed = None if seeding.is_done() else self._run_once(*seeding.command)
        with step("servers"):
            self.environment |= self.start_servers()
            self._supervisor.keep(self.servers.processes)
        with step("keys"):
            self._make_keys()
        with step("migrations"):
            self._migrate()
        open_gate(self._children.start_file, self.environment)
        self._changed()
        if seed:
            with step("seed"):
                self._finish(seed)
                seeding.note_done()
        with step("services"):
            self._wait_ready()
        self._state = State.READY
        self._changed()
        for line in seeding.lines():
            say(f"  {line}")
        say(f"ready {self._url} ({time.monotonic() - started:.1f} s)")

    def start_servers(self) -> dict[str, str]:
        """The settings with which the services reach their servers, which run when this returns."""
        return self.servers.start()

    def _check(self) -> None:
        self.data.open()
        if (self.data.path / UNFINISHED).exists():
            raise CannotStart(f"{self.data.path} was being restored when that ended; run `brokage restore` again")
        for name in self.data.stop_orphans():
            say(f"  ended {name}, which a killed run had left")
        self._sockets[PUBLIC] = listen(HOST, self.options.port)
        self.data.rotate_logs_at_start()
        leave_pointer(self.data.path)
        self._children = Children(self.data, self._settings())
        self._children.start_file.unlink(missing_ok=True)
        self._changed()

    def _settings(self) -> dict[str, str]:
        settings = {"BROKAGE_DATA_DIR": str(self.data.path)}
        # On one machine not out of the writer's reach, but of whoever has only the store.
        checkpoints = self.data.audit_checkpoints.as_uri()
        settings["BROKAGE_AUDIT_CHECKPOINT_URL"] = os.environ.get("BROKAGE_AUDIT_CHECKPOINT_URL", checkpoints)
        if self.options.workers is not None:
            settings["BROKAGE_WORKER_THREADS"] = str(self.options.workers)
        self.environment |= settings
        return settings

    def _spawn_children(self) -> None:
        """Early: they import while the servers start, and wait at the gate."""
        public = self._sockets[PUBLIC]
        if self.options.split:
            inner = {service: self._listen(service) for service in choose([ALL], "app")}
            self._sockets |= inner
            self.children = self._children.split(public, inner)
        else:
            self.children = self._children.together(public)
        for child in self.children:
            child.spawn()
        self._supervisor.keep(self.children)

    def _listen(self, service: str) -> socket.socket:
        name = f"{service}-api"
        sock = listen(HOST, free_port(self.data.known_port(name)))
        self.data.keep_port(name, sock.getsockname()[1])
        return sock

    def _run_once(self, *command: str, environment: Mapping[str, str] | None = None) -> ManagedProcess:
        process = self._children.once(command[0], command, environment or {})
        self._once.append(process)
        process.spawn()
        return process

    def _finish(self, process: ManagedProcess) -> None:
        process.wait_ended()
        if process.returncode:
            raise StartFailed(f"{process.name} failed, {process.ending()}: {_last_line(process.spec.log)}")

    def _migrate(self) -> None:
        from infra.migrate import behind, sections

        if outdated := behind(
            self.environment, [name for name in sections() if DATABASES[name][1] in self.environment]
        ):
            # In a process of its own, so that what it imports does not stay in memory here.
            self._finish(self._run_once("migrate", *outdated, environment=self.environment))

    def _make_keys(self) -> None:
        directory = Path(self.environment["BROKAGE_KEY_DIR"]).resolve()
        self.environment["BROKAGE_KEY_DIR"] = str(directory)
        if not any(directory.glob("*.pem")):
            from shared.auth.keys import ensure

            ensure(directory)
        if "BROKAGE_FIELD_KEYS" not in self.environment and not any(directory.glob("field-*.key")):
            from shared.encryption import ensure as ensure_field_key

            ensure_field_key(directory)
        if "BROKAGE_MESSAGE_KEYS" not in self.environment and not any(directory.glob("message-*.key")):
            from shared.messaging.seal import ensure as ensure_message_key

            ensure_message_key(directory)
        audit = directory / "audit"
        if not any(audit.glob("*.pem")):
            from shared.auth.keys import ensure as ensure_audit_key

            ensure_audit_key(audit)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while waiting := [child for child in self.children if child.state is not State.READY]:
            if hopeless := self._supervisor.hopeless(ENDINGS_AT_START_MAX):
                name, log = hopeless.process.name, hopeless.process.spec.log
                raise StartFailed(f"{name} does not start, {hopeless.last_ending}; see {log}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{waiting[0].name} was not ready in time; see {waiting[0].spec.log}")
            time.sleep(POLL_SECONDS)

    # -- while it runs -------------------------------------------------------------------------------------------------

    def _make_backup_process(self) -> ManagedProcess:
        process = self._children.once(COMMAND, [COMMAND], self.environment)
        self._once.append(process)
        return process

    def _watch(self) -> None:
        while not self._stop.wait(self._look_seconds):
            with contextlib.suppress(OSError):
                self.data.bound_logs()
                self._backups.look()

    @property
    def _port(self) -> int:
        return int(self._sockets[PUBLIC].getsockname()[1])

    @property
    def _url(self) -> str:
        return f"http://{HOST}:{self._port}"

    def _changed(self) -> None:
        """Show the present state in `run.json`. A full disk is no reason to end what runs."""
        with self._writing, contextlib.suppress(OSError):
            self.data.write_run(self._description())

    def _description(self) -> dict[str, Any]:
        own = {"name": "supervisor", "service": None, "role": "supervisor", "pid": os.getpid(), "state": self._state}
        others = [
            {
                "name": process.name,
                "service": process.spec.service,
                "role": process.spec.role,
                "pid": process.pid,
                "state": process.state,
            }
            for process in [*self.children, *self.servers.processes]
        ]
        known = {"redis": "BROKAGE_REDIS_URL", "mongo": "BROKAGE_MONGO_URL"}
        known |= {key: variable for _, variable, key in DATABASES.values()}
        urls = {name: self.environment[variable] for name, variable in known.items() if variable in self.environment}
        return {
            "supervisor": {"pid": os.getpid(), "identity": identity(os.getpid())},
            "data_dir": str(self.data.path),
            "processes": [own, *others],
            "ports": {name: sock.getsockname()[1] for name, sock in self._sockets.items()}
            | {server.name: server.port for server in self.servers.all},
            "urls": {"api": self._url} | urls,
            "environment": self.environment,
        }

    # -- stop ----------------------------------------------------------------------------------------------------------

    def _stop_all(self) -> None:
        """Requests first, then what carries and does their work, then the servers that all of them use."""
        self._supervisor.let_go()
        for role in STOP_ORDER:
            stop_together([process for process in [*self.children, *self._once] if process.spec.role == role])
        self.servers.stop()
        if self._sockets:
            self._state = State.STOPPED
            self._changed()
        for sock in self._sockets.values():
            sock.close()
        self.data.close()


def say(line: str) -> None:
    """One line of output, seen at once."""
    with contextlib.suppress(OSError):  # nobody reads any more; the run goes on
        print(line, flush=True)


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Say how long a step of the start took, once it is done."""
    started = time.monotonic()
    yield
    say(f"{name:<12} {time.monotonic() - started:6.2f} s")


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1]} (see {log})" if lines else f"see {log}"
