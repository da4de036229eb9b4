"""Sockets: one thread per connection, loopback only."""

import contextlib
import socket
import sys
import threading
from typing import Final

from infra.mongo_server.cursors import Cursors
from infra.mongo_server.dispatch import Dispatcher
from infra.mongo_server.errors import CommandError
from infra.mongo_server.expiry import SWEEP_SECONDS, sweep_until
from infra.mongo_server.moments import Moments
from infra.mongo_server.protocol import ProtocolError, read_request
from infra.mongo_server.storage import Storage

CONNECTIONS_MAX: Final = 256
_STOP_SECONDS: Final = 5.0


class Server:
    """Listens from its construction on; `serve` runs until `stop` is called from another thread or a signal."""

    def __init__(self, storage: Storage, port: int, *, sweep_seconds: float = SWEEP_SECONDS) -> None:
        self._storage = storage
        self._cursors = Cursors()
        self._moments = Moments(storage)
        self._dispatcher = Dispatcher(storage, self._cursors, self._moments)
        self._sweep_seconds = sweep_seconds
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        arguments = (self._stopping, self._storage, self._close_idle, self._sweep_seconds)
        sweeper = threading.Thread(target=sweep_until, args=arguments, name="sweep", daemon=True)
        sweeper.start()
        self._listener.settimeout(0.5)  # so that a stop is noticed without a connection
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if not self._stopping.is_set():  # out of file handles, say: wait for some to be closed
                    print(f"accept: {error}", file=sys.stderr, flush=True)
                    self._stopping.wait(0.1)
                continue
            self._start(connection)
        self._shut_down(sweeper)

    def stop(self) -> None:
        self._stopping.set()

    def _close_idle(self) -> None:
        self._cursors.close_idle()
        self._moments.close_idle()

    def _start(self, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            if len(self._connections) >= CONNECTIONS_MAX:
                connection.close()
                return
            thread = threading.Thread(target=self._converse, args=(connection,), daemon=True)
            self._connections[connection] = thread
        thread.start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            while not self._stopping.is_set():
                request = read_request(connection)
                if request is None:
                    break
                answer = self._dispatcher.answer(request)
                if request.wants_reply:
                    connection.sendall(answer)
        except ProtocolError as error:
            print(f"connection ended: {error}", file=sys.stderr, flush=True)
        except OSError:
            pass  # the client is gone; there is nobody to tell
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()

    def _shut_down(self, sweeper: threading.Thread) -> None:
        """Let running commands answer, then close."""
        self._listener.close()
        with self._lock:
            open_connections = dict(self._connections)
        for connection in open_connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        for thread in [*open_connections.values(), sweeper]:
            thread.join(_STOP_SECONDS)
        self._cursors.close_idle(0.0)
        self._moments.close_idle(0.0)
        with contextlib.suppress(CommandError):
            self._storage.close()
