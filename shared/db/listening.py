"""Hearing what a database's transactions say by NOTIFY."""

import threading
from collections.abc import Callable

import psycopg

_PAUSE_SECONDS = 1.0


def listen(url: str, channel: str, ring: Callable[[], None], stop: threading.Event) -> None:
    """Call `ring` when something was said on `channel`, until `stop`; for a thread of its own.

    Also after every new connection, because what was said before it is not heard. Who must not miss anything looks by himself
    now and then: behind some poolers nothing is ever heard.
    """
    while not stop.is_set():
        try:
            with psycopg.connect(url, autocommit=True, connect_timeout=3) as connection:
                connection.execute(f"LISTEN {channel}".encode())
                ring()
                while not stop.is_set():
                    for _ in connection.notifies(timeout=1.0, stop_after=1):
                        ring()
        except psycopg.Error:
            stop.wait(_PAUSE_SECONDS)
