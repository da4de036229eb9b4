"""Time. Business time is the database's, moved by an offset row that only tests write; Python reads the same offset."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

REFRESH_SECONDS = 1.0


def utc_now() -> datetime:
    """The machine's time; for logs and telemetry, not for business decisions."""
    return datetime.now(UTC)


class Clock:
    """The database's movable clock, read without a round trip: the offset is looked up at most once a second."""

    def __init__(self, read_offset: Callable[[], timedelta]) -> None:
        self._read_offset = read_offset
        self._offset = timedelta()
        self._expires = 0.0
        self._lock = threading.Lock()

    def now(self, read_offset: Callable[[], timedelta] | None = None) -> datetime:
        """`read_offset`: how to look it up this time, for who holds a connection already and must not wait for another."""
        if time.monotonic() >= self._expires and self._lock.acquire(blocking=False):
            try:
                self._offset = (read_offset or self._read_offset)()
                self._expires = time.monotonic() + REFRESH_SECONDS
            finally:
                self._lock.release()
        return utc_now() + self._offset
