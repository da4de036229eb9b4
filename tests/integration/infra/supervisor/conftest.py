"""Child programs of a few lines under a real supervisor, and the real `brokage up` in a directory of its own."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.runtime.process import ManagedProcess, ProcessSpec, stop_together
from infra.runtime.supervisor import Supervisor


def eventually(holds: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `holds` answers as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
    return found


class Watched:
    """A supervisor over Python programs given as text; `lines` is what it said."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.lines: list[str] = []
        self.changes = threading.Semaphore(0)
        self.supervisor = Supervisor(self.lines.append, self.changes.release)
        self.processes: list[ManagedProcess] = []

    def start(self, name: str, program: str, probe: Callable[[int], bool] = lambda pid: True) -> ManagedProcess:
        spec = ProcessSpec(
            name=name,
            role="worker",
            command=[sys.executable, "-S", "-c", program],
            log=self._directory / f"{name}.log",
            probe=probe,
        )
        process = ManagedProcess(spec)
        self.processes.append(process)
        process.spawn()
        self.supervisor.keep([process])
        return process


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found.supervisor.let_go()
    stop_together(found.processes)


class LocalSystem:
    """`brokage up` as a person runs it, from a directory of his own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._up: subprocess.Popen[bytes] | None = None
        self._output = directory / "output"

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "infra", *arguments]

    def environment(self) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if not key.startswith("BROKAGE_")}

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def up(self, *arguments: str, **environment: str) -> int:
        """Start it and wait until it is ready; returns the supervisor's pid."""
        options = ["--data-dir", str(self.data_dir), "--port", str(self.port), *arguments]
        with self._output.open("w") as output:
            up = subprocess.Popen(
                self.command("up", *options),
                cwd=self.directory,
                env=self.environment() | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._up = up
        eventually(lambda: "\nready " in self.output() or up.poll() is not None, 120.0)
        assert up.poll() is None, self.output()
        return up.pid

    def output(self) -> str:
        return self._output.read_text()

    def status(self) -> dict[str, Any]:
        done = self.run("status", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def pids(self) -> dict[str, int]:
        return {process["name"]: process["pid"] for process in self.status()["processes"]}

    def end(self, number: signal.Signals) -> int:
        """Signal the supervisor and wait for its end; returns its exit code."""
        assert self._up is not None
        self._up.send_signal(number)
        return self._up.wait(30)

    def close(self) -> None:
        if self._up is not None and self._up.poll() is None:
            self.end(signal.SIGTERM)


@pytest.fixture(scope="module")
def system() -> Iterator[LocalSystem]:
    # Not pytest's own directory: as root, Postgres runs as somebody else, who must be able to enter.
    directory = Path(tempfile.mkdtemp(prefix="brokage-test-"))
    directory.chmod(0o755)
    found = LocalSystem(directory)
    try:
        yield found
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            found.close()
        shutil.rmtree(directory, ignore_errors=True)
