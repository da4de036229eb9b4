"""An API process: an ASGI application on a socket under uvicorn."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from infra.runtime.listening import BACKLOG
from shared.http import protocol

GRACEFUL_SECONDS = 5
KEEP_ALIVE_SECONDS = 30
HEADERS_BYTES_MAX = 64 * 1024
FILES_BESIDE = 500
"""What a process opens besides connections of callers: to stores, mostly, and files."""


def _connections_max(wanted: int) -> int:
    """How many connections there may be: `wanted`, if this process may open so many files. Without them nobody could be accepted,
    also not to make room for him."""
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + FILES_BESIDE
    if files == resource.RLIM_INFINITY or files >= needed:
        return wanted
    files = needed if most == resource.RLIM_INFINITY else min(needed, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return min(wanted, max(files - FILES_BESIDE, files // 2))


class _Server(uvicorn.Server):
    """Without uvicorn's habit of raising the signal again after its clean end, which would look like a crash."""

    def __init__(self, config: uvicorn.Config, stop: threading.Event) -> None:
        super().__init__(config)
        self._stop = stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        self.should_exit = self._stop.is_set()
        yield


def run_server(application: Any, sock: socket.socket, stop: threading.Event) -> None:
    """Serve until SIGTERM or SIGINT; requests in work have 5 s to end. `stop` is set by a signal that came earlier."""
    protocol.CONNECTIONS_MAX = _connections_max(protocol.CONNECTIONS_MAX)
    config = uvicorn.Config(
        application,
        loop="uvloop",
        http="shared.http.protocol:StrictProtocol",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
        h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
        backlog=BACKLOG,
    )
    server = _Server(config, stop)
    server.run(sockets=[sock])
    if not server.started:
        raise SystemExit(3)
