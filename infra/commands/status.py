"""`status` and `down`: the running system seen, and ended, from outside."""

from __future__ import annotations

import json

import typer

from infra.commands.options import DataDir, Json

DOWN_SECONDS = 25.0


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(down)


def status(as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show the processes of the running system and its URLs."""
    from infra.backup.schedule import lines as backup_lines
    from infra.backup.schedule import state as backup_state
    from infra.runtime.running import find_system

    system = find_system(data_dir)
    backups = backup_state(system.data_dir)
    if as_json:
        print(json.dumps({"processes": system.processes, "urls": system.urls, "backups": backups}))
        return
    for process in system.processes:
        print(f"{process['name']:<28} {process['state']:<11} {process['pid'] or '-'}")
    for name, url in system.urls.items():
        print(f"{name:<28} {url}")
    for line in backup_lines(backups):
        print(line)


def down(data_dir: DataDir = None) -> None:
    """End the running system; returns when all of it is gone."""
    import signal

    from infra.runtime.failures import RuntimeFailure
    from infra.runtime.identity import signal_if_same, wait_gone
    from infra.runtime.running import find_system

    system = find_system(data_dir)
    signal_if_same(*system.supervisor, signal.SIGTERM)
    if wait_gone([system.supervisor], DOWN_SECONDS):
        raise RuntimeFailure(f"the system in {system.data_dir} did not end within {DOWN_SECONDS:.0f} s")
    print("stopped")
