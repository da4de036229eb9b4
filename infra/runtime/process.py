"""One child process: how it is spawned, watched, stopped, and why it never outlives its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from infra.runtime.failures import StartFailed
from infra.runtime.identity import POLL_SECONDS, identity

PR_SET_PDEATHSIG = 1

# Linux sends the death signal when the *thread* that forked ends, so every child is forked from one thread that lives
# as long as the process does; else a server started by a test's helper thread would die with that thread.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class State(StrEnum):
    """What `brokage status` says of a process."""

    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged user a child runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run and how it is told to end.

    `probe` is called with the pid until it says True once; `before_spawn` clears what an earlier life left behind.
    `death_signal` is what the kernel sends should the parent die without stopping the child.
    """

    name: str
    role: str
    command: Sequence[str]
    log: Path
    probe: Callable[[int], bool]
    service: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    directory: Path | None = None
    account: Account | None = None
    pass_fds: Sequence[int] = ()
    before_spawn: Callable[[], None] = lambda: None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 5.0
    death_signal: signal.Signals = signal.SIGKILL


class ManagedProcess:
    """A child that can be spawned again and again under one name."""

    def __init__(self, spec: ProcessSpec, recorded: Callable[[str, int], None] = lambda name, pid: None) -> None:
        self.spec = spec
        self.command = list(spec.command)
        self.state = State.STOPPED
        self.spawned_at = 0.0
        self._recorded = recorded
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def pid(self) -> int | None:
        """The pid of the present life, or of the last one until the next begins; None before the first."""
        return self._child.pid if self._child else None

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._child.poll() if self._child else None

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def spawn(self) -> None:
        """Start a new life; returns at once, before the child is ready."""
        self.spec.before_spawn()
        self._child = _spawner.submit(self._fork).result()
        self.spawned_at = time.monotonic()
        self.state = State.STARTING
        self._recorded(self.name, self._child.pid)

    def _fork(self) -> subprocess.Popen[bytes]:
        spec = self.spec
        parent, number = os.getpid(), int(spec.death_signal)

        def die_with_parent() -> None:
            if _libc is not None:
                _libc.prctl(PR_SET_PDEATHSIG, number)
                if os.getppid() != parent:  # it died before the line above could bind us to it
                    os._exit(1)

        account = spec.account
        with spec.log.open("ab") as log:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(spec.environment),
                cwd=spec.directory,
                pass_fds=tuple(spec.pass_fds),
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                # Its own session: Ctrl-C in the terminal reaches the supervisor alone, who stops all in order.
                start_new_session=True,
                preexec_fn=die_with_parent,  # one system call
            )

    def check_ready(self) -> bool:
        """Probe a starting child once; the state becomes READY the first time the probe holds."""
        if self.state is State.STARTING and self.alive and self._child and self.spec.probe(self._child.pid):
            self.state = State.READY
        return self.state is State.READY

    def wait_ready(self, seconds: float) -> None:
        """Wait for READY.

        Raises:
            StartFailed: it ended first, or was not ready in time; it may still be running.
        """
        deadline = time.monotonic() + seconds
        while not self.check_ready():
            if not self.alive:
                raise StartFailed(f"{self.name} ended during its start ({self.ending()}); see {self.spec.log}")
            if time.monotonic() > deadline:
                raise StartFailed(f"{self.name} was not ready after {seconds:.0f} s; see {self.spec.log}")
            time.sleep(POLL_SECONDS)

    def wait_ended(self) -> None:
        """Wait for the end of the present life, at no cost meanwhile."""
        if self._child:
            self._child.wait()

    def ending(self) -> str:
        """How the last life ended, in words."""
        code = self.returncode
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"

    def send(self, number: signal.Signals) -> None:
        """Signal the child if it runs; Popen never signals a pid that it has already reaped."""
        if self._child:
            self._child.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; its supervisor, if it has one, restarts it."""
        if self._child:
            self._child.kill()
            self._child.wait()

    def ask_to_stop(self) -> None:
        """Send the stop signal and return at once."""
        if self.alive:
            self.send(self.spec.stop_signal)
            self.send(signal.SIGCONT)  # a stopped process would hold the signal back

    def finish_stop(self, deadline: float) -> None:
        """Wait until it ended, killing it at `deadline` (monotonic)."""
        if self._child:
            try:
                self._child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill()
        self.state = State.STOPPED

    def stop(self) -> None:
        """Ask, wait for `stop_seconds`, then kill."""
        self.ask_to_stop()
        self.finish_stop(time.monotonic() + self.spec.stop_seconds)

    def identity(self) -> str | None:
        return identity(self._child.pid) if self._child else None


def stop_together(processes: Sequence[ManagedProcess]) -> None:
    """Stop several at once, each within its own `stop_seconds`."""
    started = time.monotonic()
    for process in processes:
        process.ask_to_stop()
    for process in processes:
        process.finish_stop(started + process.spec.stop_seconds)
