"""An API process: an ASGI application on a socket under uvicorn."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from infra.runtime.failures import CannotStart
from infra.runtime.gate import pass_gate

BACKLOG = 2048
GRACEFUL_SECONDS = 5
KEEP_ALIVE_SECONDS = 30
HEADERS_BYTES_MAX = 64 * 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        CannotStart: the address is taken or is none of ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    # As servers do: connections of an earlier life that linger in TIME_WAIT do not make the port taken.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CannotStart(f"cannot listen on {host} port {port}: {reason}") from error
    return sock


def take_over(descriptor: int) -> socket.socket:
    """The listening socket that our parent opened and passed on."""
    return socket.socket(fileno=descriptor)


class _Server(uvicorn.Server):
    """Without uvicorn's habit of raising the signal again after its clean end, which would look like a crash."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield


def run_server(create: Callable[[], Any], sock: socket.socket, stop: threading.Event) -> None:
    """Serve what `create` returns until SIGTERM or SIGINT; requests in work have 5 s to end. `stop` is set by a signal that
    came before the server could take it."""
    application = create()
    if not pass_gate(stop):
        return
    config = uvicorn.Config(
        application,
        loop="uvloop",
        http="httptools",
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
    server = _Server(config)
    server.run(sockets=[sock])
    if not server.started:
        raise SystemExit(3)
