"""`up`: the whole platform on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(up)


def up(
    data_dir: Annotated[
        Path,
        typer.Option(envvar="BROKAGE_DATA_DIR", help="Where everything is kept."),
    ] = Path(".brokage"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the API; 0 takes a free one.")] = 8000,
    demo: Annotated[bool, typer.Option("--demo", help="Put in demo customers and print their sign-ins.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Threads of a worker process.")] = None,
    split: Annotated[bool, typer.Option("--split", help="A process of each kind for each service.")] = False,
) -> None:
    """Start everything and keep it running until Ctrl-C."""
    from infra.runtime.local import LocalRun, Options

    LocalRun(Options(data_dir, port, demo, workers, split)).run()
