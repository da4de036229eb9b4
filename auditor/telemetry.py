"""From the stream of request telemetry into the collection `telemetry`. Lossy by design: what the capped stream dropped
is gone, and an entry that cannot be read, or was not sealed by one of our processes, is skipped."""

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import redis

from auditor import documents
from shared.db.engine import DatabaseUnavailable
from shared.faults import fault
from shared.http.telemetry import STREAM, RequestRecord, decode_batch
from shared.logging import logger
from shared.messaging.seal import TELEMETRY_CHANNEL, Seals
from shared.mongo import Document, MongoDatabase, milliseconds

log = logger(__name__)
_ENTRIES_MAX = 20
_SOCKET_SECONDS = 5.0


class TelemetryLoop:
    """A loop of the relay process; one is enough, several would only repeat each other's inserts."""

    name = "auditor telemetry"

    def __init__(
        self,
        database: MongoDatabase,
        redis_url: str,
        seals: Seals,
        refused: Callable[[], None],
        *,
        poll_seconds: float,
    ) -> None:
        self._database = database
        self._seals = seals
        self._refused = refused
        self._client: Any = redis.Redis.from_url(
            redis_url, socket_timeout=_SOCKET_SECONDS, socket_connect_timeout=_SOCKET_SECONDS
        )
        self._poll_seconds = poll_seconds

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(self._poll_seconds):
            try:
                fault("telemetry.due")
                while self.move() and not stop.is_set():
                    pass
            except (redis.RedisError, DatabaseUnavailable) as error:
                log.warning("telemetry waits", error=type(error).__name__)

    def move(self) -> int:
        """Store the next entries and forget them in the stream; how many."""
        with self._database.reachable():
            position = documents.telemetry_position(self._database)
            entries = self._read(position)
            if not entries:
                return 0
            records = [document for id, fields in entries for document in self._documents(id.decode(), fields)]
            if records:
                documents.insert_telemetry(self._database, records)
                fault("telemetry.inserted")
            last = entries[-1][0].decode()
            documents.save_telemetry_position(self._database, last)
            fault("telemetry.positioned")
        self._client.xtrim(STREAM, minid=_after(last), approximate=False)
        return len(entries)

    def _documents(self, entry_id: str, fields: dict[bytes, bytes]) -> list[Document]:
        """Ids come from the stream's, so that an entry read twice is stored once, and order as the requests ended."""
        batch, seal = fields.get(b"batch", b""), fields.get(b"seal", b"")
        if not self._seals.is_true(TELEMETRY_CHANNEL, batch, seal.decode("ascii", "replace")):
            self._refused()
            return []
        try:
            records = decode_batch(batch)
        except msgspec.DecodeError:
            log.warning("telemetry entry skipped", entry=entry_id)
            return []
        moment, _, number = entry_id.partition("-")
        prefix = f"{int(moment):015d}-{int(number):06d}"
        return [{"_id": f"{prefix}-{index:04d}", **_fields(record)} for index, record in enumerate(records)]

    def _read(self, position: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
        found = self._client.xread({STREAM: position}, count=_ENTRIES_MAX)
        if not found:
            return []
        if isinstance(found, dict):  # RESP3
            [batches] = found.values()
            return [entry for batch in batches for entry in batch] if _is_nested(batches) else batches
        entries: list[tuple[bytes, dict[bytes, bytes]]] = found[0][1]
        return entries


def _is_nested(batches: list[Any]) -> bool:
    return bool(batches) and isinstance(batches[0], list)


def _after(entry_id: str) -> str:
    moment, _, number = entry_id.partition("-")
    return f"{moment}-{int(number) + 1}"


def _fields(record: RequestRecord) -> Document:
    return {**msgspec.structs.asdict(record), "timestamp": milliseconds(record.timestamp)}
