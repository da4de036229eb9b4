"""Free TCP ports on the loopback interface for servers that keep theirs over restarts."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from infra.runtime.failures import CannotStart

LOOPBACK = "127.0.0.1"
LOWEST = 20_000
ATTEMPTS = 200


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Tell whether a server could listen there now."""
    with socket.socket() as probe:
        # As servers do: connections of an earlier life that linger in TIME_WAIT do not make the port taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(preferred: int | None = None) -> int:
    """Return the preferred port if it is free, else a random free one below the ephemeral range.

    Below, because while a server is down the kernel may hand an ephemeral port to any client; one that keeps trying to
    reconnect to the dead port may even be given that very port and so connect to itself, and the server never returns.
    """
    if preferred is not None and is_free(preferred):
        return preferred
    highest = max(_ephemeral_start(), LOWEST + ATTEMPTS) - 1
    for _ in range(ATTEMPTS):
        port = random.randint(LOWEST, highest)
        if is_free(port):
            return port
    raise CannotStart(f"no free port between {LOWEST} and {highest}")


def _ephemeral_start() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
