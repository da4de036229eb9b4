"""An HTTP/1.1 client that costs next to nothing, because it shares the machine with what it measures.

A connection sends prepared bytes and takes the whole answer; it knows status, length and body, nothing else.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, cast

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class BadAnswer(Exception):
    """The server answered what was not asked for, or hung up."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: bytes
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def expect(self, *statuses: int) -> Answer:
        if self.status not in statuses:
            raise BadAnswer(f"{self.status}: {self.body[:500].decode(errors='replace')}")
        return self


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._needed = 0
        self._head = b""
        self._waiting: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport | None = None
        self._answered_at = time.monotonic()

    @property
    def rest_seconds(self) -> float:
        """How long nothing has been asked of it."""
        return time.monotonic() - self._answered_at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed:
            end = self._buffer.find(_HEAD_END)
            if end < 0:
                return
            self._head = bytes(self._buffer[: end + 2])
            self._needed = end + len(_HEAD_END) + _length(self._head)
        if len(self._buffer) >= self._needed:
            body = bytes(self._buffer[len(self._head) + 2 : self._needed])
            del self._buffer[: self._needed]
            self._needed = 0
            self._answer(Answer(int(self._head[9:12]), self._head, body))

    def _answer(self, answer: Answer) -> None:
        self._answered_at = time.monotonic()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(BadAnswer(f"the connection was closed: {error}"))

    async def send(self, request: bytes) -> Answer:
        assert self._transport is not None
        if self._transport.is_closing():
            raise BadAnswer("the connection was closed")
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _length(head: bytes) -> int:
    found = head.lower().find(_LENGTH)
    if found < 0:
        return 0
    start = found + len(_LENGTH)
    return int(head[start : head.index(b"\r", start)])


async def connect(port: int, *, address: str | None = None) -> Connection:
    """`address`: the local one to come from, where limits count addresses."""
    _, connection = await asyncio.get_running_loop().create_connection(
        Connection, "127.0.0.1", port, local_addr=(address, 0) if address else None
    )
    return connection


def request(
    method: str, path: str, *, token: str | None = None, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """The bytes of a request; a body is JSON unless `headers` says otherwise."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    shown = {"Content-Type": "application/json"} if body else {}
    lines += [f"{name}: {value}" for name, value in (shown | (headers or {})).items()]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + _HEAD_END + body
