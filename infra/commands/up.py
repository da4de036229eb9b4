"""`brokage up`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(up)


def up(
    data_dir: Annotated[Path, typer.Option(envvar="BROKAGE_DATA_DIR", help="Where everything is kept.")] = Path(
        ".brokage"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API on 127.0.0.1.")] = 8000,
    demo: Annotated[bool, typer.Option("--demo", help="Seed the demo sign-ins and balances.")] = False,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Threads of the worker process.")] = 8,
) -> None:
    """Start everything and keep it running until Ctrl-C."""
    from infra.runtime.up import Options, Up

    Up(Options(data_dir, port, demo, workers)).run()
