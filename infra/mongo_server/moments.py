"""Snapshots that outlive a command: a client reads several collections as they were at one moment.

The first `find` with read concern `snapshot` takes one and is answered with its `atClusterTime`; the others name it. A real
MongoDB keeps the same promise on a replica set.
"""

import itertools
import threading
import time
from dataclasses import dataclass
from typing import Final

from bson.timestamp import Timestamp

from infra.mongo_server.errors import CommandError
from infra.mongo_server.storage import Snapshot, Storage

KEPT_MAX: Final = 8
IDLE_SECONDS_MAX: Final = 300.0
_TOO_OLD: Final = 239


@dataclass(slots=True)
class _Kept:
    snapshot: Snapshot
    touched: float


class Moments:
    """The snapshots that are kept, bounded in number and idle time: each holds the file's log back."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._kept: dict[Timestamp, _Kept] = {}
        self._numbers = itertools.count(1)

    def find(self, moment: Timestamp | None) -> tuple[Timestamp, Snapshot]:
        """The snapshot of `moment`, or a new one of now."""
        with self._lock:
            now = time.monotonic()
            if moment is None:
                if len(self._kept) >= KEPT_MAX:
                    raise CommandError(1, f"more than {KEPT_MAX} snapshots are kept")
                moment = Timestamp(int(time.time()), next(self._numbers))
                self._kept[moment] = _Kept(self._storage.snapshot(), now)
            elif moment not in self._kept:
                raise CommandError(_TOO_OLD, "the snapshot is no longer kept")
            kept = self._kept[moment]
            kept.touched = now
            return moment, kept.snapshot

    def release(self, snapshot: Snapshot) -> None:
        """A cursor over it is closed; it is kept for the next one."""

    def close_idle(self, seconds: float = IDLE_SECONDS_MAX) -> None:
        limit = time.monotonic() - seconds
        with self._lock:
            for moment in [moment for moment, kept in self._kept.items() if kept.touched <= limit]:
                self._storage.release(self._kept.pop(moment).snapshot)
