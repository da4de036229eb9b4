"""What the clients know: every request, written down before it is sent, and every answer, or that there was none.

The system cannot vouch for itself: what was acknowledged, what was asked for at all, and what was paid
in and out is what stands here.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Outcome(StrEnum):
    """What the client knows of one attempt. UNKNOWN: it may or may not have had its effect."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(eq=False, slots=True)
class Attempt:
    """`status` is None where no answer came; `error` then says why."""

    outcome: Outcome = Outcome.UNKNOWN
    status: int | None = None
    code: str | None = None
    error: str | None = None
    answer: Any = None


@dataclass(eq=False, slots=True)
class Request:
    """One wish of one client, however often it is sent. All attempts carry the same `key` and body.

    `key` is None where nothing makes a repeat the same request (a read, a sign-in); `keyed_by` names where it travels: the header
    Idempotency-Key, a field of the body, or the path itself.
    """

    number: int
    kind: str
    user: str
    user_id: int
    method: str
    path: str
    body: dict[str, Any] | None = None
    key: str | None = None
    keyed_by: str = "none"
    attempts: list[Attempt] = field(default_factory=list)
    resolved: Outcome | None = None
    """What repeating it at the end has shown."""

    @property
    def outcome(self) -> Outcome:
        """OK once any attempt was; REFUSED if every attempt was, or the last word was; else UNKNOWN."""
        if self.resolved is not None:
            return self.resolved
        outcomes = {attempt.outcome for attempt in self.attempts}
        if Outcome.OK in outcomes:
            return Outcome.OK
        return Outcome.REFUSED if outcomes == {Outcome.REFUSED} else Outcome.UNKNOWN

    @property
    def answers(self) -> list[Any]:
        return [attempt.answer for attempt in self.attempts if attempt.outcome is Outcome.OK]

    @property
    def had_unknown(self) -> bool:
        return any(attempt.outcome is Outcome.UNKNOWN for attempt in self.attempts)


class History:
    """Thread-safe. The file holds a line before each send and one after each answer; it survives the end of this process."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("a", encoding="utf-8", buffering=1)
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.requests: list[Request] = []
        self.orders_acknowledged = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def new(self, kind: str, user: str, user_id: int, method: str, path: str, **more: Any) -> Request:
        with self._lock:
            request = Request(len(self.requests) + 1, kind, user, user_id, method, path, **more)
            self.requests.append(request)
            return request

    def sending(self, request: Request) -> Attempt:
        """Write down that it is about to be sent, and only then let it be."""
        attempt = Attempt()
        with self._lock:
            request.attempts.append(attempt)
            self._write(
                send=request.number,
                attempt=len(request.attempts),
                kind=request.kind,
                user=request.user,
                method=request.method,
                path=request.path,
                body=request.body,
                key=request.key,
            )
        return attempt

    def ended(self, request: Request, attempt: Attempt) -> None:
        with self._lock:
            number = request.attempts.index(attempt) + 1
            if request.kind == "place" and attempt.outcome is Outcome.OK and len(request.answers) == 1:
                self.orders_acknowledged += 1
            said = {"status": attempt.status, "code": attempt.code, "error": attempt.error}
            known = {name: value for name, value in said.items() if value is not None}
            self._write(end=request.number, attempt=number, outcome=attempt.outcome, **known)

    def _write(self, **line: Any) -> None:
        if not self._stream.closed:
            self._stream.write(json.dumps({"at": round(time.monotonic() - self._started, 4), **line}) + "\n")

    def of(self, *kinds: str) -> list[Request]:
        with self._lock:
            return [request for request in self.requests if request.kind in kinds]

    def counts(self) -> dict[str, dict[str, int]]:
        """How many requests of each kind ended how."""
        with self._lock:
            found: dict[str, Counter[str]] = {}
            for request in self.requests:
                found.setdefault(request.kind, Counter())[request.outcome] += 1
        return {kind: dict(counter) for kind, counter in sorted(found.items())}
