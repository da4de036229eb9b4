"""Find the running system: its processes, URLs and environment, for every command that talks to one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.runtime.data_directory import DEFAULT
from infra.runtime.failures import NoSystem
from infra.runtime.identity import identity, is_same

POINTER = DEFAULT / "current"


@dataclass(frozen=True, slots=True)
class RunningSystem:
    """What `run.json` of a live supervisor says."""

    data_dir: Path
    run: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """Every BROKAGE_* variable its processes were started with."""
        return dict(self.run["environment"])

    @property
    def urls(self) -> dict[str, str]:
        return dict(self.run["urls"])

    @property
    def supervisor(self) -> tuple[int, str]:
        """Pid and identity."""
        return int(self.run["supervisor"]["pid"]), str(self.run["supervisor"]["identity"])

    @property
    def processes(self) -> list[dict[str, Any]]:
        """As in `status --json`; one whose pid is gone this instant is `restarting`."""
        return [self._as_it_is(process) for process in self.run["processes"]]

    @staticmethod
    def _as_it_is(process: dict[str, Any]) -> dict[str, Any]:
        if process["state"] in ("starting", "ready") and identity(process["pid"]) is None:
            return process | {"state": "restarting"}
        return process


def data_dir_of(given: Path | None) -> Path | None:
    """The first data directory that exists of: the one given, BROKAGE_DATA_DIR, the pointer `up` left, `./.brokage`."""
    return next((directory for directory in _candidates(given) if directory.is_dir()), None)


def _candidates(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    if named := os.environ.get("BROKAGE_DATA_DIR"):
        yield Path(named)
        return
    if POINTER.is_file():
        yield Path(POINTER.read_text(encoding="utf-8").strip())
    yield DEFAULT


def find(given: Path | None = None) -> RunningSystem:
    """Return the system that runs in the data directory given, named by the environment or pointed to.

    Raises:
        NoSystem: there is none, or its supervisor is gone.
    """
    for directory in _candidates(given):
        try:
            system = RunningSystem(
                directory.resolve(), json.loads((directory / "run.json").read_text(encoding="utf-8"))
            )
        except (OSError, ValueError):
            continue
        if is_same(*system.supervisor):
            return system
    raise NoSystem("no system is running" + (f" in {given}" if given else "; start one with `brokage up`"))
