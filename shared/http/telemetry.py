"""Request telemetry: lossy by design. A bounded buffer in the process, flushed in batches to a capped stream; drops
are counted.

Each entry of the stream has the fields `batch`, a JSON array of `RequestRecord`, and `seal`.
"""

import asyncio
import contextlib
from collections import deque
from datetime import datetime
from typing import Any

import msgspec
from prometheus_client import Counter

from shared.http.valkey import AsyncValkey, Unavailable
from shared.messaging.seal import TELEMETRY_CHANNEL, Seals

STREAM = "telemetry"
STREAM_BATCHES_MAX = 5_000
BATCH_MAX = 200
_BUFFER_MAX = 10_000
_FLUSH_SECONDS = 0.5
HEADERS_KEPT = frozenset({b"accept", b"content-length", b"content-type", b"prefer", b"user-agent"})
"""All others may hold secrets. The list is of what is kept, so a new header is left out until somebody decides."""
_HEADER_LENGTH_MAX = 200

dropped = Counter("brokage_telemetry_dropped_total", "Telemetry records dropped, by reason", ["reason"])


class RequestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `endpoint` is the route's template, `response_time` in whole milliseconds."""

    timestamp: datetime
    endpoint: str
    method: str
    response_time: int
    status_code: int
    user_id: int | None
    correlation_id: str
    headers: dict[str, str]


_DECODER = msgspec.json.Decoder(list[RequestRecord])


def decode_batch(batch: bytes) -> list[RequestRecord]:
    """The records of one entry of the stream.

    Raises:
        msgspec.DecodeError: it is of another release.
    """
    return _DECODER.decode(batch)


def kept_headers(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {
        name.decode("latin-1"): value[:_HEADER_LENGTH_MAX].decode("latin-1")
        for name, value in headers
        if name in HEADERS_KEPT
    }


class TelemetryBuffer:
    """Collects records and flushes them from a task of its own; a request never waits for it."""

    def __init__(self, valkey: AsyncValkey, seals: Seals) -> None:
        self._valkey = valkey
        self._seals = seals
        self._records: deque[RequestRecord] = deque()

    def add(self, record: RequestRecord) -> None:
        if len(self._records) >= _BUFFER_MAX:
            dropped.labels("buffer_full").inc()
            return
        self._records.append(record)

    async def run(self, stop: asyncio.Event) -> None:
        """Flush until `stop` is set, and once more then.

        Stopped by an event and not by cancellation: a client's time-out in the same moment can swallow that.
        """
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        while self._records:
            batch = [self._records.popleft() for _ in range(min(BATCH_MAX, len(self._records)))]
            encoded = msgspec.json.encode(batch)
            entry: list[Any] = ["batch", encoded, "seal", self._seals.seal(TELEMETRY_CHANNEL, encoded)]
            try:
                await self._valkey.command("XADD", STREAM, "MAXLEN", "~", STREAM_BATCHES_MAX, "*", *entry)
            except Unavailable:
                # Not put back: during an outage the newest records are worth more than the oldest.
                dropped.labels("stream_unavailable").inc(len(batch))
                return
