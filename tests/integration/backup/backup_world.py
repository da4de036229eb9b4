"""A world over servers that run, those of the origin or of what was restored."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from reconcile_world import World

from infra.reconcile.check import Finding
from infra.servers import DATABASES, EmbeddedServers
from processor.settings import Settings as ProcessorSettings
from shared.db import Database
from shared.testing.pump import Pump


@contextmanager
def opened(servers: EmbeddedServers) -> Iterator[World]:
    """A world over running servers."""
    with ExitStack() as stack:
        databases = {}
        for service, (_, variable, _) in DATABASES.items():
            databases[service] = Database(servers.environment[variable], name="test", pool_size=4)
            stack.callback(databases[service].close)
        pump = stack.enter_context(Pump(servers.environment))
        settings = ProcessorSettings(processor_database_url=servers.environment[DATABASES["processor"][1]])
        yield World(servers, databases, pump, settings)


@contextmanager
def brought_up(directory: Path) -> Iterator[World]:
    """The system in a restored data directory."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BROKAGE_")}
    with EmbeddedServers(directory, environ=clean) as servers, opened(servers) as world:
        yield world


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a person runs it, with these settings only."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BROKAGE_")}
    return subprocess.run(
        [sys.executable, "-m", "infra", *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def settle(world: World) -> None:
    """What was under way goes again when its lease ends, which is now."""
    for service in world.databases:
        world.sql(service, "UPDATE outbox_events SET lease_until = brokage_now() WHERE status = 'SENT'")
    world.pump.drain()


def broken(world: World) -> dict[int, list[Finding]]:
    return {number: each.findings for number, each in world.reconcile().items() if each.broken}
