"""Wires that can be bent: a TCP proxy in front of each server, in a thread of this process.

A `Link` forwards bytes as they are until it is told otherwise: slower, in small pieces, not at all, or cut at the very moment
when the other side has said that a commit is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

import uvloop

T = TypeVar("T")

HOST = "127.0.0.1"
_CHUNK = 64 * 1024
_HELD_POLL_SECONDS = 0.02
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero: closing sends a reset instead of a polite end."""


@dataclass(slots=True)
class Cut:
    """Cut a connection once `pattern` passes, at most `remaining` times.

    `towards`: "server" looks at requests and drops the one that has it; "client" looks at answers and drops that one, which the
    server has carried out. "answer" looks at requests, lets the one with the pattern through, and drops what comes back for it.
    """

    towards: str
    pattern: bytes
    remaining: int = 1
    happened: int = 0


@dataclass(slots=True)
class Bend:
    """What is wrong with a link now; the fields' defaults are a healthy wire. Times in seconds."""

    down: bool = False
    held: bool = False
    latency: float = 0.0
    jitter: float = 0.0
    bytes_per_second: float | None = None
    piece: int | None = None
    cut: Cut | None = None


@dataclass(slots=True)
class Seen:
    """What the link has done so far: the evidence that a bend had an effect."""

    connections: int = 0
    refused: int = 0
    reset: int = 0
    delayed: int = 0
    held: int = 0
    bytes: int = 0


@dataclass(eq=False, slots=True)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    drop_next_answer: bool = False
    tails: dict[str, bytes] = field(default_factory=lambda: {"server": b"", "client": b""})

    def abort(self) -> None:
        for writer in (self.client, self.server):
            _abort(writer)


class Link:
    """One proxied server. `upstream` answers the port that the server has now; it is asked for each connection."""

    def __init__(self, name: str, upstream: Callable[[], int], seed: int = 0) -> None:
        self.name = name
        self.port = 0
        self.bend = Bend()
        self.seen = Seen()
        self._upstream = upstream
        self._random = random.Random(f"{seed} {name}")
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def listen(self, port: int = 0) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = await asyncio.start_server(self._accept, HOST, port, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.abort()

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def heal(self) -> None:
        """A healthy wire again; from any thread."""
        self.bend = Bend()

    def reset_all(self) -> int:
        """Cut every open connection at once; how many there were. From any thread."""
        assert self._loop is not None, "the link listens"
        return asyncio.run_coroutine_threadsafe(self._reset_all(), self._loop).result(10)

    async def _reset_all(self) -> int:
        connections = list(self._open)
        for connection in connections:
            connection.abort()
        self.seen.reset += len(connections)
        return len(connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.bend.down:
            self.seen.refused += 1
            _abort(writer)
            return
        while self.bend.held:
            self.seen.held += 1
            await asyncio.sleep(_HELD_POLL_SECONDS)
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self._upstream(), limit=_CHUNK)
        except (OSError, KeyError, ValueError):
            _abort(writer)
            return
        self.seen.connections += 1
        connection = _Connection(writer, server_writer)
        self._open.add(connection)
        try:
            await asyncio.gather(
                self._pump(connection, reader, server_writer, "server"),
                self._pump(connection, server_reader, writer, "client"),
            )
        except (OSError, RuntimeError, _Cut):
            connection.abort()
        finally:
            self._open.discard(connection)
            for each in (writer, server_writer):
                with contextlib.suppress(OSError, RuntimeError):
                    each.close()

    async def _pump(
        self, connection: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, towards: str
    ) -> None:
        while data := await reader.read(_CHUNK):
            self.seen.bytes += len(data)
            self._look(connection, data, towards)
            await self._pass(writer, data)
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()

    def _look(self, connection: _Connection, data: bytes, towards: str) -> None:
        """Cut where the link's cut says so."""
        if towards == "client" and connection.drop_next_answer:
            raise _Cut
        cut = self.bend.cut
        if cut is None or cut.remaining <= 0:
            return
        looks_at = "client" if cut.towards == "client" else "server"
        if towards != looks_at:
            return
        # A pattern may lie across two reads.
        text = connection.tails[towards] + data
        connection.tails[towards] = data[-len(cut.pattern) + 1 :] if len(cut.pattern) > 1 else b""
        if cut.pattern not in text:
            return
        cut.remaining -= 1
        cut.happened += 1
        if cut.towards == "answer":
            connection.drop_next_answer = True
            return
        raise _Cut

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        """Send `data` on as the present bend has it."""
        bend = self.bend
        if bend.latency:
            self.seen.delayed += 1
            await asyncio.sleep(max(0.0, bend.latency + self._random.uniform(-bend.jitter, bend.jitter)))
        while self.bend.held:
            self.seen.held += 1
            await asyncio.sleep(_HELD_POLL_SECONDS)
        if self.bend.down:
            raise _Cut
        if bend.piece is None and bend.bytes_per_second is None:
            writer.write(data)
            await writer.drain()
            return
        piece = bend.piece or 1024
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            writer.write(part)
            await writer.drain()
            self.seen.delayed += 1
            # Once the bend is healed the rest goes at full speed.
            if self.bend is bend:
                await asyncio.sleep(len(part) / bend.bytes_per_second if bend.bytes_per_second else 0)


class _Cut(Exception):
    """This connection ends here."""


def _abort(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket | None = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError, ValueError):  # it may be closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class Links:
    """All links of a system, on one event loop in a thread of its own."""

    def __init__(self, links: list[Link]) -> None:
        self._links = {link.name: link for link in links}
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)

    def __getitem__(self, name: str) -> Link:
        return self._links[name]

    @property
    def all(self) -> list[Link]:
        return list(self._links.values())

    def heal(self) -> None:
        for link in self.all:
            link.heal()

    def __enter__(self) -> Self:
        self._thread.start()
        for link in self.all:
            self._do(link.listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self.all:
            self._do(link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
