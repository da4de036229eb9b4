"""`serve`, `worker`, `relay`: the processes of a deployment, and the children of `up`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

Services = Annotated[list[str], typer.Argument(help="Names of services, or `all`.", metavar="SERVICE...|all")]


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(worker)
    app.command()(relay)
    app.command(hidden=True)(gateway)


def serve(
    services: Services,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A listening socket to take over instead.")] = None,
) -> None:
    """Serve the API of services."""
    from infra.runtime import collector
    from infra.runtime.gate import pass_gate
    from infra.runtime.listening import listen, take_over
    from infra.runtime.serving import run_server
    from infra.services import choose, load

    names = choose(services, "app")
    _configure_logging(names, "api")
    stop = _stop_on_signals()
    sock = take_over(fd) if fd is not None else listen(host, port)
    apis = [load(name, "app").api for name in names]
    from shared.app import create_app

    collector.tune()
    if pass_gate(stop):
        # Only now: the settings that the app reads come through the gate.
        run_server(create_app(apis), sock, stop)


def _show_backups() -> None:
    """Of a local run that makes them: the data directory says what became of them."""
    if os.environ.get("BROKAGE_BACKUP_DIR") and (data_dir := os.environ.get("BROKAGE_DATA_DIR")):
        from prometheus_client import REGISTRY

        from infra.backup.metrics import BackupMetrics

        REGISTRY.register(BackupMetrics(Path(data_dir)))


def gateway(
    upstreams: Annotated[list[str], typer.Argument(help="Where each service listens.", metavar="SERVICE=PORT...")],
    fd: Annotated[int, typer.Option(help="The listening socket to take over.")],
) -> None:
    """Serve the public port of `up --split`: each path goes to the service that owns it."""
    from infra.gateway import Gateway, Upstream
    from infra.runtime.gate import pass_gate
    from infra.runtime.listening import take_over
    from infra.runtime.serving import run_server
    from shared.http.proxies import TrustedProxies

    _configure_logging([], "gateway")
    stop = _stop_on_signals()
    services = dict(upstream.split("=", 1) for upstream in upstreams)
    if pass_gate(stop):
        ports = {name: Upstream(int(port)) for name, port in services.items()}
        proxies = TrustedProxies(os.environ.get("BROKAGE_TRUSTED_PROXIES", ""))
        run_server(Gateway(ports, proxies), take_over(fd), stop)


def worker(services: Services) -> None:
    """Receive messages for services."""
    from infra.runtime import collector
    from infra.runtime.gate import pass_gate, tell_ready
    from infra.services import choose, load

    names = choose(services, "worker")
    _configure_logging(names, "worker")
    stop = _stop_on_signals()
    workers = [load(name, "worker").worker for name in names]
    from shared.messaging.runtime import run_workers
    from shared.settings import ServiceSettings

    collector.tune()
    if pass_gate(stop):
        run_workers(workers, stop, settings=ServiceSettings(), on_ready=tell_ready)


def relay(services: Services) -> None:
    """Run the outbox relays, sweepers and timers of services."""
    from infra.runtime import collector
    from infra.runtime.gate import pass_gate, tell_ready
    from infra.services import choose, load

    names = choose(services, "relay")
    _configure_logging(names, "relay")
    stop = _stop_on_signals()
    relays = [load(name, "relay").relay for name in names]
    from shared.messaging.runtime import run_relays
    from shared.settings import ServiceSettings

    collector.tune()
    if pass_gate(stop):
        run_relays(relays, stop, settings=ServiceSettings(), on_ready=tell_ready)


def _configure_logging(names: Sequence[str], role: str) -> None:
    from shared.logging import configure

    configure(service=names[0] if len(names) == 1 else role)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
