"""Connections that are opened and left alone."""

import resource
import socket
import time
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

from tests.e2e.system import System

IDLE = 1_000
FILES = IDLE + 500


def test_a_thousand_idle_connections_keep_nobody_waiting(system: System) -> None:
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(allowed, min(FILES, most)), most))
    address = urlsplit(system.urls["api"])
    trader = system.sign_in("trader3")
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection((address.hostname or "", address.port or 0), timeout=5))
            for _ in range(IDLE)
        ]
        took = []
        for _ in range(20):
            started = time.monotonic()
            trader.get("/api/orders")
            took.append(time.monotonic() - started)
        # Of a machine that does much besides; idle itself, it takes some milliseconds.
        assert sorted(took)[len(took) // 2] < 0.5, took
        # They are there still, and cost nothing.
        idle[0].settimeout(0.1)
        with suppress(TimeoutError):
            assert idle[0].recv(1) != b"", "closed before its time, though there is room for it"
