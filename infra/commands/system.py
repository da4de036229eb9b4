"""`brokage status`, `down` and `logs`: look at the running system and end it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[Path | None, typer.Option(help="Data directory of the system; found by itself if left out.")]
STOP_SECONDS = 25.0


def register(app: typer.Typer) -> None:
    for command in (status, down, logs):
        app.command()(command)


def status(data_dir: DataDir = None, json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Say which processes run and where they listen."""
    from json import dumps

    from infra.runtime.system import find

    system = find(data_dir)
    if json:
        print(dumps({"processes": system.processes, "urls": system.urls}))
        return
    for process in system.processes:
        print(f"{process['name']:<12} {process['pid'] or '-':>8} {process['state']}")
    print(f"\napi          {system.urls['api']}")


def down(data_dir: DataDir = None) -> None:
    """Stop the running system, in order, and wait until it is gone."""
    import signal

    from infra.runtime.failures import RuntimeFailure
    from infra.runtime.identity import signal_if_same, wait_gone
    from infra.runtime.system import find

    supervisor = find(data_dir).supervisor
    signal_if_same(*supervisor, signal.SIGTERM)
    if wait_gone([supervisor], STOP_SECONDS):
        raise RuntimeFailure(f"the supervisor (pid {supervisor[0]}) is still running after {STOP_SECONDS:.0f} s")


def logs(
    name: Annotated[str | None, typer.Argument(help="One log; all if left out.")] = None, data_dir: DataDir = None
) -> None:
    """Print the log files of the last run; they stay when the system is down."""
    from infra.runtime.failures import NoSystem
    from infra.runtime.system import data_dir_of

    directory = data_dir_of(data_dir)
    known = sorted((directory / "logs").glob("*.log")) if directory else []
    wanted = [log for log in known if name is None or log.stem == name]
    if not wanted:
        names = ", ".join(log.stem for log in known) or "none"
        raise NoSystem(f"no log named {name}; there is: {names}" if name else "no logs: nothing has run here")
    for log in wanted:
        if len(wanted) > 1:
            print(f"==> {log.stem} <==")
        with log.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                print(line, end="")
