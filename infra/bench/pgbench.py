"""The yardsticks: what the same Postgres does with statements written by hand, asked with its own pgbench."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from infra.bench.system import BenchSystem
from infra.runtime.failures import RuntimeFailure

SCRIPTS = Path(__file__).with_name("yardsticks")
DATABASE = "bench_yardsticks"
CLIENTS = 16
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)


class Yardsticks:
    """A database of its own on the measured server; `transfer` and `insert` each ask once."""

    def __init__(self, system: BenchSystem) -> None:
        self._system = system
        with system.connect() as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        self._run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(SCRIPTS / "schema.sql"))

    def transfer(self, seconds: int) -> float:
        """T: transactions per second."""
        return self._tps("transfer", seconds)

    def insert(self, seconds: int) -> float:
        """I: transactions per second."""
        return self._tps("insert", seconds)

    def commit_seconds(self, seconds: int) -> list[float]:
        """The sorted durations of single-row commits of one client."""
        with tempfile.TemporaryDirectory() as directory:
            options = ["-n", "-M", "prepared", "-c", "1", "-T", str(seconds), "-l", f"--log-prefix={directory}/commits"]
            self._run("pgbench", *options, "-f", str(SCRIPTS / "commit.sql"))
            lines = [line for log in Path(directory).iterdir() for line in log.read_text().splitlines()]
        # client, number of the transaction, its microseconds, ...
        return sorted(int(line.split()[2]) / 1_000_000 for line in lines)

    def _tps(self, script: str, seconds: int) -> float:
        options = ["-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds)]
        output = self._run("pgbench", *options, "-f", str(SCRIPTS / f"{script}.sql"))
        found = _TPS.search(output)
        assert found, output
        return float(found[1])

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._system.program(program)), *arguments, DATABASE],
            env={"PATH": os.environ.get("PATH", ""), **self._system.client_environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise RuntimeFailure(f"{program} failed: {done.stderr.strip()}")
        return done.stdout
