"""Listening sockets: opened once by whoever owns the port, handed to the process that serves it."""

from __future__ import annotations

import socket

from infra.runtime.failures import CannotStart

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        CannotStart: the address is taken or is none of ours.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # As servers do: connections of an earlier life that linger in TIME_WAIT do not make the port taken.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        reason = error.strerror if isinstance(error, OSError) else "no such port"
        raise CannotStart(f"cannot listen on {host} port {port}: {reason}; choose another with --port") from error
    return sock


def take_over(descriptor: int) -> socket.socket:
    """The listening socket that our parent opened and passed on."""
    return socket.socket(fileno=descriptor)
