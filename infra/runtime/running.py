"""The running system, found from another process by what `up` wrote into its data directory."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.runtime.data_directory import DEFAULT
from infra.runtime.failures import NoSystem
from infra.runtime.identity import identity, is_same

POINTER = DEFAULT / "current"


@dataclass(frozen=True, slots=True)
class RunningSystem:
    """A system whose supervisor was alive when it was looked for."""

    data_dir: Path
    run: dict[str, Any]

    @property
    def environment(self) -> dict[str, str]:
        """The settings under which its services run, passwords included.

        Raises:
            NoSystem: its servers are not up yet.
        """
        found: dict[str, str] = self.run["environment"]
        if "BROKAGE_REDIS_URL" not in found:
            raise NoSystem(f"the system in {self.data_dir} is still starting")
        return dict(found)

    @property
    def urls(self) -> dict[str, str]:
        return dict(self.run["urls"])

    @property
    def processes(self) -> list[dict[str, Any]]:
        """As `status --json` shows them; one that is gone this instant is `restarting`."""
        return [_as_it_is(process) for process in self.run["processes"]]

    @property
    def supervisor(self) -> tuple[int, str]:
        """Its pid and what tells it from another process of that pid."""
        return self.run["supervisor"]["pid"], self.run["supervisor"]["identity"]

    def apply_to_environ(self) -> None:
        """Make this process see the settings of the system, as its services do."""
        os.environ.update(self.environment)


def find_system(data_dir: Path | None = None) -> RunningSystem:
    """The system of `data_dir`, else of `BROKAGE_DATA_DIR`, else the last one that was started from this directory.

    Raises:
        NoSystem: there is none, or it is not running.
    """
    directory = locate(data_dir)
    run = _read(directory / "run.json")
    if run is None or not is_same(run["supervisor"]["pid"], run["supervisor"]["identity"]):
        raise NoSystem(f"no system is running in {directory}; `brokage up` starts one")
    return RunningSystem(directory, run)


def locate(data_dir: Path | None) -> Path:
    """Which data directory is meant; it need not exist."""
    if data_dir is not None:
        return data_dir.expanduser().resolve()
    if named := os.environ.get("BROKAGE_DATA_DIR"):
        return Path(named).expanduser().resolve()
    with contextlib.suppress(OSError):
        if pointed := POINTER.read_text(encoding="utf-8").strip():
            return Path(pointed)
    return DEFAULT.resolve()


def leave_pointer(directory: Path) -> None:
    """Note in the working directory which data directory was used last; a convenience, so failing is no failure."""
    with contextlib.suppress(OSError):
        POINTER.parent.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, exist_ok=True)
        POINTER.write_text(f"{directory}\n", encoding="utf-8")


def _as_it_is(process: dict[str, Any]) -> dict[str, Any]:
    if process["state"] in ("starting", "ready") and identity(process["pid"]) is None:
        return process | {"state": "restarting"}
    return process


def _read(file: Path) -> dict[str, Any] | None:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return run if isinstance(run, dict) and "supervisor" in run else None
