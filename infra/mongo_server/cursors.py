"""Open cursors: an iterator over a snapshot, handed out in batches, closed when exhausted, killed or idle."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument

from infra.mongo_server.errors import CommandError
from infra.mongo_server.storage import Snapshot

FIRST_BATCH: Final = 101
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024  # the protocol allows 16 MiB; less keeps the process small
OPEN_MAX: Final = 200
IDLE_SECONDS_MAX: Final = 600.0


class Cursor:
    """A lazy result. `lock` is held while a batch is read: two getMores at once are refused. `release` takes the snapshot back."""

    def __init__(
        self, namespace: str, documents: Iterator[bytes], snapshot: Snapshot, release: Callable[[Snapshot], None]
    ) -> None:
        self.namespace = namespace
        self.lock = threading.Lock()
        self.touched = time.monotonic()
        self._documents = documents
        self._snapshot = snapshot
        self._release = release
        self._closed = False
        self.exhausted = False

    def batch(self, size: int | None) -> list[RawBSONDocument]:
        """The next documents, at most `size` and BATCH_BYTES_MAX; notices exhaustion where it comes upon it."""
        taken: list[RawBSONDocument] = []
        weight = 0
        while size is None or len(taken) < size:
            body = next(self._documents, None)
            if body is None:
                self.exhausted = True
                break
            if taken and weight + len(body) > BATCH_BYTES_MAX:
                self._documents = itertools.chain([body], self._documents)
                break
            weight += len(body)
            taken.append(RawBSONDocument(body))
        self.touched = time.monotonic()
        return taken

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._documents = iter(())  # ends the statement before its connection goes back
            self._release(self._snapshot)


class Cursors:
    """All open cursors of the server; bounded in number and idle time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Cursor] = {}

    def first_answer(self, cursor: Cursor, batch_size: int | None, *, single: bool) -> dict[str, Any]:
        """The first batch; the cursor stays open only if more may come. Takes over closing it."""
        try:
            documents = cursor.batch(FIRST_BATCH if batch_size is None else batch_size)
            cursor_id = 0 if cursor.exhausted or single else self._register(cursor)
        except BaseException:
            cursor.close()
            raise
        if cursor_id == 0:
            cursor.close()
        return {"cursor": {"firstBatch": documents, "id": Int64(cursor_id), "ns": cursor.namespace}, "ok": 1.0}

    def _register(self, cursor: Cursor) -> int:
        with self._lock:
            if len(self._open) >= OPEN_MAX:
                raise CommandError(1, f"more than {OPEN_MAX} open cursors")
            while (cursor_id := random.getrandbits(62)) in self._open or cursor_id == 0:
                pass
            self._open[cursor_id] = cursor
            return cursor_id

    def next_answer(self, cursor_id: int, namespace: str, batch_size: int | None) -> dict[str, Any]:
        with self._lock:
            cursor = self._open.get(cursor_id)
        if cursor is None or cursor.namespace != namespace:
            raise CommandError(43, f"cursor id {cursor_id} not found")
        if not cursor.lock.acquire(blocking=False):
            raise CommandError(12051, f"cursor id {cursor_id} is already in use")
        try:
            documents = cursor.batch(batch_size or None)
            if cursor.exhausted:
                self._forget(cursor_id, cursor)
        except BaseException:
            self._forget(cursor_id, cursor)
            raise
        finally:
            cursor.lock.release()
        next_id = Int64(0 if cursor.exhausted else cursor_id)
        return {"cursor": {"nextBatch": documents, "id": next_id, "ns": namespace}, "ok": 1.0}

    def _forget(self, cursor_id: int, cursor: Cursor) -> None:
        """The caller holds the cursor's lock."""
        with self._lock:
            self._open.pop(cursor_id, None)
        cursor.close()

    def kill(self, cursor_id: int) -> bool:
        with self._lock:
            cursor = self._open.pop(cursor_id, None)
        if cursor is None:
            return False
        with cursor.lock:
            cursor.close()
        return True

    def close_idle(self, seconds: float = IDLE_SECONDS_MAX) -> None:
        limit = time.monotonic() - seconds
        with self._lock:
            idle = [cursor_id for cursor_id, cursor in self._open.items() if cursor.touched <= limit]
        for cursor_id in idle:
            self.kill(cursor_id)
