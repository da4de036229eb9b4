"""The data directory: everything a run keeps, who may use it, and what an earlier run may have left alive in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

from infra.runtime.failures import CannotStart
from infra.runtime.identity import identity, is_same, signal_if_same, wait_gone

DEFAULT = Path(".brokage")
UNFINISHED = "restoring"
"""Is there while a restore is under way; where one was killed, only another restore may begin."""
ORPHAN_SECONDS = 8.0
LOGS_KEPT = 3
LOG_BYTES_MAX = 20 * 1024 * 1024


class DataDirectory:
    """Paths and small files of one data directory.

    `open` makes it ours until `close` or the end of the process, however it ends: the lock is the kernel's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.logs = self.path / "logs"
        self.keys = self.path / "keys"
        self.audit_checkpoints = self.path / "audit-checkpoints.ndjson"
        self.run_file = self.path / "run.json"
        self._secrets_file = self.path / "secrets.json"
        self._ports_file = self.path / "ports.json"
        self._processes_file = self.path / "processes.json"
        self._lock: int | None = None
        self._processes: dict[str, dict[str, Any]] = {}
        self._recording = threading.Lock()

    def open(self) -> None:
        """Create what is missing and take the lock.

        Raises:
            CannotStart: not writable, or another run holds it.
        """
        try:
            self._create()
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotStart(f"data directory {self.path} is not writable: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise CannotStart(f"data directory {self.path} is in use by another run{self._holder()}") from error

    def _create(self) -> None:
        # As root, Postgres runs as somebody else, who must pass through here on the way to its own directory.
        self.path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self.keys.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.path) as probe:
            probe.write(b"writable")

    def _holder(self) -> str:
        with contextlib.suppress(OSError, ValueError, KeyError):
            return f" (pid {int(json.loads(self.run_file.read_text())['supervisor']['pid'])})"
        return ""

    def close(self) -> None:
        """Give up the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- processes -----------------------------------------------------------------------------------------------------

    def record(self, name: str, pid: int) -> None:
        """Write down a child of ours, so that the next run finds it should this one die without stopping it."""
        with self._recording:
            self._processes[name] = {"pid": pid, "identity": identity(pid)}
            write_private(self._processes_file, json.dumps(self._processes))

    def stop_orphans(self) -> list[str]:
        """End what a killed run left behind; call with the lock held, before anything is started.

        Returns:
            The names of the processes that were still alive.
        """
        recorded = self._read(self._processes_file)
        left = {
            name: (entry["pid"], entry["identity"])
            for name, entry in recorded.items()
            if entry["identity"] and is_same(entry["pid"], entry["identity"])
        }
        for pid, known in left.values():
            # SIGINT is Postgres' fast shutdown and a clean end for everything else; the second wakes a stopped one.
            signal_if_same(pid, known, signal.SIGINT)
            signal_if_same(pid, known, signal.SIGCONT)
        stubborn = wait_gone(left.values(), ORPHAN_SECONDS)
        for pid, known in stubborn:
            signal_if_same(pid, known, signal.SIGKILL)
        wait_gone(stubborn, ORPHAN_SECONDS)
        self._processes = {}
        self._processes_file.unlink(missing_ok=True)
        return sorted(left)

    # -- secrets and ports ---------------------------------------------------------------------------------------------

    def secret(self, name: str) -> str:
        """A random password of that name, made at the first call and kept in a file of mode 0600."""
        known = self._read(self._secrets_file)
        if name not in known:
            known[name] = secrets.token_urlsafe(24)
            write_private(self._secrets_file, json.dumps(known, indent=1))
        return str(known[name])

    def known_port(self, name: str) -> int | None:
        """The port that server had last time, so that URLs people noted down keep working."""
        port = self._read(self._ports_file).get(name)
        return int(port) if port else None

    def keep_port(self, name: str, port: int) -> None:
        ports = self._read(self._ports_file)
        if ports.get(name) != port:
            write_private(self._ports_file, json.dumps(ports | {name: port}))

    # -- run file and logs ---------------------------------------------------------------------------------------------

    def write_run(self, run: dict[str, Any]) -> None:
        """Replace `run.json` in one step: a reader sees the old one or the new one, whole."""
        write_private(self.run_file, json.dumps(run, indent=1))

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def rotate_logs_at_start(self) -> None:
        """Give each run fresh log files, keeping those of the last runs as `.1`, `.2`, `.3`."""
        for log in sorted(self.logs.glob("*.log")):
            if log.stat().st_size:
                _shift(log)
                log.rename(log.with_name(log.name + ".1"))

    def bound_logs(self) -> None:
        """Cut the files that grew too large; children keep appending to the same file, so it is copied and emptied."""
        for log in self.logs.glob("*.log"):
            if log.stat().st_size > LOG_BYTES_MAX:
                _shift(log)
                log.with_name(log.name + ".1").write_bytes(log.read_bytes())
                os.truncate(log, 0)

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise CannotStart(f"{file} cannot be read: {error}") from error
        return content if isinstance(content, dict) else {}


def _shift(log: Path) -> None:
    for number in range(LOGS_KEPT - 1, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        if older.exists():
            older.replace(log.with_name(f"{log.name}.{number + 1}"))


def write_private(file: Path, text: str) -> None:
    """Write a file of mode 0600 so that it is never seen half written, nor by others."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    temporary.replace(file)
