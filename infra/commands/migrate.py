"""`brokage migrate` and `brokage seed`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(migrate)
    app.command(hidden=True)(seed)


def environment(data_dir: Path | None) -> dict[str, str]:
    """Our own environment if it names the databases, as in a deployment; else that of the running system."""
    from infra.migrate import URL_VARIABLES
    from infra.runtime.system import find

    if data_dir is None and any(os.environ.get(variable) for variable in URL_VARIABLES.values()):
        return dict(os.environ)
    return find(data_dir).environment


def migrate(data_dir: Annotated[Path | None, typer.Option()] = None) -> None:
    """Bring the databases to the newest migration."""
    from infra.migrate import migrate_all

    for service in migrate_all(environment(data_dir)):
        print(f"{service} migrated")


def seed(demo: Annotated[bool, typer.Option("--demo")] = False) -> None:
    """Put in what a new system needs; what is there already stays. `up` calls it."""
    import importlib
    import importlib.util

    if importlib.util.find_spec("infra.seed") is None:
        print("infra.seed is not there: nothing was seeded")
        return
    importlib.import_module("infra.seed").seed(environment(None), demo=demo)
