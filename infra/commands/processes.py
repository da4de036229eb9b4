"""`brokage serve`, `worker` and `relay`: the entry points of every deployment, for one service, several or `all`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import threading

SERVICES = ("customer_service", "asset_service", "order_service", "processor", "notifier", "auditor")
Names = Annotated[list[str], typer.Argument(help=f"{', '.join(SERVICES)}, or all.")]


def register(app: typer.Typer) -> None:
    for command in (serve, worker, relay):
        app.command()(command)


def serve(
    services: Names,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Serve the HTTP API of these services in one process."""
    import uvicorn

    from shared.app import create_app

    uvicorn.run(
        create_app(load(services, "app", "api")),
        host=host,
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=2048,
        timeout_graceful_shutdown=3,
    )


def worker(services: Names) -> None:
    """Consume the queues of these services in one process."""
    from shared.messaging.runtime import run_workers
    from shared.settings import ServiceSettings

    found = load(services, "worker", "worker")
    run_workers(found, stop_on_signals(), settings=ServiceSettings(), on_ready=say_started)


def relay(services: Names) -> None:
    """Run the relays, sweepers and timers of these services in one process."""
    from shared.messaging.runtime import run_relays
    from shared.settings import ServiceSettings

    found = load(services, "relay", "relay")
    run_relays(found, stop_on_signals(), settings=ServiceSettings(), on_ready=say_started)


def load(names: list[str], module: str, attribute: str) -> list[Any]:
    """Import `<service>.<module>` of each service, and of no other: any service runs with the others deleted."""
    import importlib

    wanted = list(SERVICES) if names == ["all"] else names
    for name in wanted:
        if name not in SERVICES:
            raise typer.BadParameter(f"{name} is no service; there are {', '.join(SERVICES)}, and all")
    return [getattr(importlib.import_module(f"{name}.{module}"), attribute) for name in dict.fromkeys(wanted)]


def stop_on_signals() -> threading.Event:
    """An event that SIGINT and SIGTERM set."""
    import signal
    import threading

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def say_started() -> None:
    """Tell the supervisor that this process does its work now: its pid in the file BROKAGE_READY_FILE names."""
    import os

    if file := os.environ.get("BROKAGE_READY_FILE"):
        Path(file).write_text(str(os.getpid()), encoding="ascii")
