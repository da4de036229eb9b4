"""What a fault may touch, and the connections with which it is done and its effect is seen; all past the links."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg.rows import dict_row

from infra.faults.client import Client
from infra.faults.people import People
from infra.faults.system import System
from shared.messaging import seal
from shared.messaging.seal import Seals

EVERYTHING = "everything"
_CONNECT_SECONDS = 5.0


@dataclass(slots=True)
class World:
    """`ending` is set when the run wants no new faults and long ones to end."""

    system: System
    client: Client
    people: People
    ending: threading.Event = field(default_factory=threading.Event)
    forged: set[str] = field(default_factory=set)
    """Ids of batches and events that the run itself has put into the broker: no service has sent them."""

    @contextmanager
    def valkey(self, timeout: float = 2.0) -> Iterator[redis.Redis]:
        url = self.system.environment["BROKAGE_REDIS_URL"]
        client: redis.Redis = redis.Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, client_name="faults"
        )
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def postgres(self, database: str = "postgres") -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """As superuser, in autocommit; writes even while the cluster is told to be read-only."""
        url = f"{self.system.superuser_url(database)}&options=-c%20default_transaction_read_only%3Doff"
        with psycopg.connect(url, autocommit=True, row_factory=dict_row, application_name="faults") as connection:
            yield connection

    def seals(self) -> Seals:
        """Those of the system, for what only looks as if the broker had lost its way."""
        return seal.load_directory(Path(self.system.environment["BROKAGE_KEY_DIR"]))

    def pause(self, seconds: float) -> None:
        """Wait, unless the run is ending."""
        self.ending.wait(seconds)


Inject = Callable[[World, random.Random], str | None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to break the system.

    `inject` breaks it, lets that last, heals it, and answers what effect it has seen, in words; None if there was none, and then
    the fault does not count. `touches`: two faults that touch the same are never injected at once. `weight`: how often it is drawn.
    `lasting` ones run beside the others, where there is time for them.
    """

    name: str
    touches: frozenset[str]
    inject: Inject
    weight: int = 1
    lasting: float = 0.0


def kind(name: str, *touches: str, weight: int = 1, lasting: float = 0.0) -> Callable[[Inject], Kind]:
    """Makes a function a kind of fault."""
    return lambda inject: Kind(name, frozenset(touches), inject, weight, lasting)
