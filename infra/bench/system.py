"""The system under measurement: `brokage up` with its default settings, in a temporary directory, and its processes by name."""

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
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from infra.runtime.data_directory import DataDirectory
from infra.runtime.failures import RuntimeFailure, StartFailed
from infra.runtime.running import RunningSystem, find_system
from infra.seed import ADMIN_PASSWORD_FILE
from infra.servers.postgres import SUPERUSER, PostgresServer

START_SECONDS = 120.0
STOP_SECONDS = 30.0
COMMAND_SECONDS = 900.0
HELD = ("relay", "worker", "api")
"""What can be held still by SIGSTOP; the servers and the supervisor go on."""


class BenchSystem:
    """One `brokage up`, from entering to leaving; its directory goes with it."""

    def __init__(self) -> None:
        # As root, Postgres runs as somebody else, who must be able to enter.
        self._directory = Path(tempfile.mkdtemp(prefix="brokage-bench-"))
        self._directory.chmod(0o711)
        self.data_dir = self._directory / "data"
        self._output = self._directory / "output"
        self._up: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        # No setting of the caller's reaches the system: what is measured is what `up` does by default.
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BROKAGE_")}
        with self._output.open("wb") as output:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "infra", "up", "--port", "0", "--data-dir", str(self.data_dir)],
                cwd=self._directory,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_SECONDS
        while "\nready " not in self._output.read_text():
            if self._up.poll() is not None or time.monotonic() > deadline:
                raise StartFailed(f"the system to measure did not start:\n{self._output.read_text()}")
            time.sleep(0.05)
        self._postgres = PostgresServer(DataDirectory(self.data_dir))
        self._postgres.port = int(self._run["ports"]["postgres"])

    def close(self) -> None:
        """End it and remove all it wrote."""
        try:
            if self._up is not None and self._up.poll() is None:
                with contextlib.suppress(Exception):
                    self.release()
                self._up.send_signal(signal.SIGINT)
                self._up.wait(STOP_SECONDS)
        finally:
            if self._up is not None and self._up.poll() is None:
                self._up.kill()
            shutil.rmtree(self._directory, ignore_errors=True)

    # -- what it is made of --------------------------------------------------------------------------------------------

    @property
    def running(self) -> RunningSystem:
        return find_system(self.data_dir)

    @property
    def _run(self) -> dict[str, Any]:
        return self.running.run

    @property
    def environment(self) -> dict[str, str]:
        return self.running.environment

    @property
    def port(self) -> int:
        return int(self._run["ports"]["api"])

    @property
    def admin_password(self) -> str:
        return (self.data_dir / ADMIN_PASSWORD_FILE).read_text(encoding="utf-8").strip()

    def pids(self) -> dict[str, int]:
        """The processes by role, as they are now."""
        return {process["role"]: process["pid"] for process in self.running.processes}

    # -- its databases -------------------------------------------------------------------------------------------------

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """As superuser, autocommit."""
        return self._postgres.connect(database)

    def set_synchronous_commit(self, on: bool) -> None:
        """For all sessions, also those that are open."""
        with self.connect() as connection:
            connection.execute(f"ALTER SYSTEM SET synchronous_commit = {'on' if on else 'off'}")
            connection.execute("SELECT pg_reload_conf()")

    def command(self, *arguments: str) -> Any:
        """What a `brokage ... --json` about this system prints; it may exit 1."""
        done = subprocess.run(
            [sys.executable, "-m", "infra", *arguments, "--json", "--data-dir", str(self.data_dir)],
            env={key: value for key, value in os.environ.items() if not key.startswith("BROKAGE_")},
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode not in (0, 1) or not done.stdout:
            raise RuntimeFailure(f"{' '.join(arguments)} failed: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def url(self, database: str) -> str:
        """Of any database, as superuser."""
        return self._postgres.url_of(SUPERUSER, database)

    def program(self, name: str) -> Path:
        return self._postgres.program(name)

    @property
    def client_environment(self) -> dict[str, str]:
        """With which Postgres' own programs connect as superuser."""
        return {
            "PGHOST": str(self._postgres.socket_directory),
            "PGPORT": str(self._postgres.port),
            "PGUSER": SUPERUSER,
            "PGPASSWORD": DataDirectory(self.data_dir).secret(SUPERUSER),
            "LC_ALL": "C",
        }

    # -- holding it still ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self, *roles: str) -> Iterator[None]:
        """With these processes stopped in their tracks (all of `HELD` without a name)."""
        self._signal(signal.SIGSTOP, *roles)
        try:
            yield
        finally:
            self.release(*roles)

    def release(self, *roles: str) -> None:
        self._signal(signal.SIGCONT, *roles)

    def _signal(self, number: signal.Signals, *roles: str) -> None:
        pids = self.pids()
        for role in roles or HELD:
            os.kill(pids[role], number)
