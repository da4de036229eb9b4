"""uvicorn's httptools protocol with what it leaves out: bounded and timely requests, readers who read, and problem+json
for what is not HTTP.

Give it to uvicorn as `http="shared.http.protocol:StrictProtocol"`.
"""

import asyncio
from http import HTTPStatus
from itertools import count
from typing import Any

from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from shared.errors import BadRequest, BrokageError, HeadersTooLarge
from shared.http.answer_headers import secured
from shared.http.edge import unjudged_headers
from shared.http.problems import render
from shared.http.state import BODY_IS_HERE
from shared.ids import new_id

HEAD_BYTES_MAX = 64 * 1024
"""What is read of one request before its headers end. The edge's own limits are narrower and answer more precisely."""
HEAD_SECONDS_MAX = 10.0
BODY_SECONDS_MAX = 15.0
"""For a body, read or not. The route gives it ten seconds and answers 408; this ends what goes on dripping after an answer."""
STALLED_SECONDS_MAX = 10.0
"""How long a caller may read nothing of an answer that is ready for him."""
CONNECTIONS_MAX = 2_000
"""Beyond it, idle ones make room for new ones: the longest waiting, and first those that have never asked for anything."""
_ROOM = 0.1
"""The part of them that is closed at once, so that a flood is not looked through with every connection of it."""

_turns = count()
"""Grows with each connection that begins to wait: in a flood, many do so in the same moment."""

closed_for_room = Counter(
    "brokage_idle_connections_closed_total", "Connections without a request, closed before their time for want of room"
)


class _OneWrite:
    """The transport of one answer: its head goes out with the beginning of its body, in one system call and one segment instead of
    two. A head whose body is not there yet goes by itself at the end of the event loop's turn."""

    __slots__ = ("_head", "_loop", "_transport", "_with_body")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._with_body = True

    def write(self, data: bytes) -> None:
        if not self._with_body:
            self._transport.write(data)
        elif self._head is None:
            self._head = data
            self._loop.call_soon(self._go)
        else:
            self._with_body = False
            self._transport.write(self._head + data)

    def close(self) -> None:
        self._go()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _go(self) -> None:
        if self._with_body and self._head is not None:
            self._with_body = False
            self._transport.write(self._head)


class StrictProtocol(HttpToolsProtocol):
    """One connection. At any moment at most one part of a request is awaited, its head or its body."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._awaited: float | None = HEAD_SECONDS_MAX
        """For how long the part that is awaited may take; None between requests."""
        self._part_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = next(_turns)
        self._watch_part()
        if len(self.connections) > CONNECTIONS_MAX:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await_part(None)
        self._stop_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._awaited = HEAD_SECONDS_MAX
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
            self._refuse(HeadersTooLarge())
        self._watch_part()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._await_part(BODY_SECONDS_MAX)
        before = self.cycle
        super().on_headers_complete()
        if self.cycle is not before:
            self.cycle.transport = _OneWrite(self.transport, self.loop)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        super().on_message_complete()
        # Mostly all of a request comes at once; then this is before the application runs.
        self.scope["extensions"] = {BODY_IS_HERE: {}}
        self._await_part(None)
        self._in_head = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._idle_since = next(_turns)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_stall_timer()
        self._stall_timer = self.loop.call_later(STALLED_SECONDS_MAX, self._abort)

    def resume_writing(self) -> None:
        self._stop_stall_timer()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest("This is not a valid HTTP request."))

    def _await_part(self, seconds: float | None) -> None:
        """The next part is awaited, for so long; None: nothing is."""
        self._awaited = seconds
        if self._part_timer is not None:
            self._part_timer.cancel()
            self._part_timer = None

    def _watch_part(self) -> None:
        """Start the clock for what did not come with what was read: most requests need none."""
        if self._awaited is not None and self._part_timer is None:
            self._part_timer = self.loop.call_later(self._awaited, self._give_up)

    def _give_up(self) -> None:
        # Silent: whoever sends a header a minute does not wait for an answer.
        self._await_part(None)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def _abort(self) -> None:
        # Not closed: that would wait for what is not read to be read.
        self._stall_timer = None
        if self.transport is not None:
            self.transport.abort()

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _make_room(self) -> None:
        """Those go first that never had a request. Who has one in work is never among them; and a caller who comes to ask does so
        at once, so a flood of connections that say nothing costs him nothing."""
        idle = [each for each in self.connections if isinstance(each, StrictProtocol) and each._is_idle()]
        idle.sort(key=lambda each: (each.cycle is not None, each._idle_since))
        for each in idle[: max(1, int(CONNECTIONS_MAX * _ROOM))]:
            closed_for_room.inc()
            each.transport.close()

    def _is_idle(self) -> bool:
        in_work = self.cycle is not None and not self.cycle.response_complete
        return self._in_head and not in_work and not self.transport.is_closing()

    def _refuse(self, error: BrokageError) -> None:
        status, headers, body = render(error, correlation_id=new_id())
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        headers += [(b"connection", b"close"), *unjudged_headers()]
        lines += [name + b": " + value for name, value in secured(headers)]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()
