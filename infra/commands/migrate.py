"""`migrate`: the databases' schemas; `seed`: what a new system needs to know."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from infra.commands.options import DataDir


def register(app: typer.Typer) -> None:
    app.command()(migrate)
    app.command(hidden=True)(seed)


def migrate(
    services: Annotated[list[str] | None, typer.Argument(help="Services; without a name, all that are here.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Bring the databases to the newest revision: those of the environment, else those of the running system."""
    from infra.migrate import migrate_all

    changed = migrate_all(_environment(data_dir), services or ())
    print(f"migrated {', '.join(changed)}" if changed else "nothing to migrate")


def seed(
    demo: Annotated[bool, typer.Option("--demo", help="Also the demo customers and their balances.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write the lines there, as a JSON list.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Put in what a new system needs; what is there stays. `up` calls it."""
    from infra.runtime.gate import pass_gate
    from infra.seed import seed as put_in

    if not pass_gate(threading.Event()):
        return
    environment = _environment(data_dir)
    put_in(environment, demo=demo)
    lines = _sign_ins(environment, demo)
    if output:
        output.write_text(json.dumps(lines), encoding="utf-8")
        return
    for line in lines:
        print(line)


def _sign_ins(environment: Mapping[str, str], demo: bool) -> list[str]:
    from infra.seed import ADMIN_PASSWORD_FILE, DEMO_USERS

    if demo:
        return [f"sign in as {user.username:<8} password {user.password}" for user in DEMO_USERS]
    file = Path(environment.get("BROKAGE_DATA_DIR", ".")) / ADMIN_PASSWORD_FILE
    return [f"sign in as admin, password in {file}"] if file.is_file() else []


def _environment(data_dir: Path | None) -> dict[str, str]:
    """Our own if it names databases, as in a deployment, else that of the running system."""
    from infra.migrate import VARIABLES
    from infra.runtime.running import find_system

    if any(os.environ.get(variable) for variable in VARIABLES.values()):
        return dict(os.environ)
    return find_system(data_dir).environment
