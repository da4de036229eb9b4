"""All services' messages, moved in this process without a broker: the same outboxes and inboxes, one step after the other."""

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self
from unittest import mock

from shared.db import Database
from shared.messaging.delivery import Acknowledgement, Delivery
from shared.messaging.outbox import Claim, PostgresOutbox
from shared.messaging.runtime import Consumer

SOURCES = {
    "customer_service": "BROKAGE_CUSTOMERS_DATABASE_URL",
    "order_service": "BROKAGE_ORDERS_DATABASE_URL",
    "asset_service": "BROKAGE_ASSETS_DATABASE_URL",
    "processor": "BROKAGE_PROCESSOR_DATABASE_URL",
}
READERS = (*SOURCES, "notifier", "auditor")
_LEASE_SECONDS = 60.0
_EVENTS_MAX = 500
_ROUNDS_MAX = 10_000


class Pump:
    """What relays, broker and workers do, deterministic: sources take turns, and each lane's batches go in their
    order.

    Args:
        environment: the `BROKAGE_*` settings of the services.
        readers: whose messages are moved; those of others stay in the outboxes.
    """

    def __init__(self, environment: Mapping[str, str], readers: Sequence[str] = READERS) -> None:
        self._databases = {
            source: Database(environment[variable], name="pump", pool_size=1) for source, variable in SOURCES.items()
        }
        self._outboxes = {
            source: PostgresOutbox(database, lease_seconds=_LEASE_SECONDS, events_max=_EVENTS_MAX)
            for source, database in self._databases.items()
        }
        with mock.patch.dict(os.environ, environment):
            self._consumers: dict[str, Consumer] = {
                reader: importlib.import_module(f"{reader}.worker").worker.start()
                for reader in readers
                if importlib.util.find_spec(f"{reader}.worker") is not None
            }

    def drain(self) -> int:
        """Move everything until nothing is left to move; how many batches that were.

        Raises:
            AssertionError: it does not end. Anything else: a store is away.
        """
        moved = 0
        for _ in range(_ROUNDS_MAX):
            batches = sum(self._empty(source) for source in self._outboxes)
            if not batches:
                return moved
            moved += batches
        raise AssertionError("the services keep talking")

    def _empty(self, source: str) -> int:
        """Move what one source has to say; its answers come when the others have their turns."""
        outbox = self._outboxes[source]
        moved = 0
        claims = outbox.step([], _no_queue)
        while claims:
            acknowledgements = [each for claim in sorted(claims, key=_lane) for each in self._deliver(source, claim)]
            moved += len(acknowledgements)
            claims = outbox.step(acknowledgements, _no_queue)
        return moved

    def _deliver(self, source: str, claim: Claim) -> list[Acknowledgement]:
        consumer = self._consumers.get(claim.destination)
        return consumer.receive(Delivery(source, claim.batches)) if consumer else []

    def close(self) -> None:
        for consumer in self._consumers.values():
            consumer.close()
        for database in self._databases.values():
            database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lane(claim: Claim) -> tuple[str, list[int]]:
    return claim.destination, claim.lanes


def _no_queue(destination: str) -> int:
    return 0
