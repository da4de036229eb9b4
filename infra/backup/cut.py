"""One causal cut over the Postgres cluster and the documents.

Within the cluster any point of the WAL is one: what a transaction saw was committed before it. Between the cluster and the
documents there are two ways only, and the relays go both: batches out, acknowledgements back. So the cut holds the relays of all
outboxes, after their transactions in flight, and takes both sides meanwhile: what the documents say was committed before, and what
the outboxes call acknowledged is in the documents. Requests and the other consumers go on; only messages wait, for milliseconds.

The hold is the relays' own lock in transactions that the server itself ends after `HOLD_SECONDS_MAX`: a backup that dies or is
stopped leaves nothing held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors

from infra.runtime.failures import RuntimeFailure
from infra.servers.postgres import DATABASES, PostgresServer
from shared.messaging.locks import RELAY_LOCK

HOLD_SECONDS_MAX = 1.8
_PATIENCE_SECONDS = 1.0
_ATTEMPTS_MAX = 5
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Cut:
    """`name` is the restore point's, `lsn` its place in the WAL of `timeline`, `at` the moment by the server's clock."""

    name: str
    lsn: str
    timeline: int
    at: datetime
    pause_seconds: float


def make_cut(postgres: PostgresServer, name: str, keep_documents: Callable[[], None]) -> Cut:
    """Hold the relays, keep the documents as they are now, mark the place in the WAL, let go.

    Args:
        keep_documents: pins what will be copied later; must take milliseconds. It may be called more than once.

    Raises:
        RuntimeFailure: the relays could not be held, or not long enough; nothing is held any more.
    """
    for attempt in range(_ATTEMPTS_MAX):
        if attempt:
            time.sleep(_PAUSE_SECONDS)
        try:
            return _attempt(postgres, name, keep_documents)
        except (errors.LockNotAvailable, errors.TransactionTimeout):
            continue
    raise RuntimeFailure("the relays could not be held for a moment; try again when the system is less busy")


def _attempt(postgres: PostgresServer, name: str, keep_documents: Callable[[], None]) -> Cut:
    with relays_held(postgres) as (connection, began):
        keep_documents()
        row = connection.execute(
            "SELECT pg_create_restore_point(%s)::text, clock_timestamp(), timeline_id FROM pg_control_checkpoint()",
            (name,),
        ).fetchone()
    pause = time.monotonic() - began
    assert row is not None
    return Cut(name, row[0], row[2], row[1], pause)


@contextmanager
def relays_held(postgres: PostgresServer) -> Iterator[tuple[psycopg.Connection[Any], float]]:
    """Hold the relays of all four outboxes; yields a connection, and since when (monotonic) they are held.

    Raises:
        LockNotAvailable: a relay is busy. TransactionTimeout: it took too long, and what was held is free again.
    """
    with ExitStack() as stack:
        connections = [stack.enter_context(postgres.connect(database)) for database, _, _ in DATABASES.values()]
        began = time.monotonic()
        for connection in connections:
            stack.enter_context(connection.transaction())
            connection.execute(f"SET LOCAL transaction_timeout = '{HOLD_SECONDS_MAX}s'")
            connection.execute(f"SET LOCAL lock_timeout = '{_PATIENCE_SECONDS}s'")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (RELAY_LOCK,))
        yield connections[0], began
        for connection in connections:
            # Who was ended by the server held nothing any more: then there was no cut.
            connection.execute("SELECT 1")
