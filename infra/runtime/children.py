"""The processes of a run that are ours: what each is started with and how it is known to be ready."""

from __future__ import annotations

import http.client
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from infra.runtime.data_directory import DataDirectory
from infra.runtime.gate import READY_VARIABLE, VARIABLE
from infra.runtime.process import ManagedProcess, ProcessSpec
from infra.services import ALL, choose

ROOT = Path(__file__).resolve().parent.parent.parent
HOST = "127.0.0.1"
PROBE_SECONDS = 2.0
# The api ends its requests, the relay its rounds, the worker its deliveries; the servers have the rest of the 20 s.
STOP_SECONDS = {"api": 5.5, "relay": 2.5, "worker": 3.5}
# Else glibc gives each thread a heap of its own, and each keeps what the largest batch took that its thread ever had.
_MEMORY = {"MALLOC_ARENA_MAX": "2"}


class Children:
    """Makes the children of one data directory; `start_file` opens their gate."""

    def __init__(self, data: DataDirectory, settings: Mapping[str, str]) -> None:
        self.start_file = data.path / "start.json"
        self._data = data
        self._settings = {VARIABLE: str(self.start_file)} | dict(settings)

    def together(self, public: socket.socket) -> list[ManagedProcess]:
        """One process of each role, for all services."""
        loops = [self._looping(role, role, "all", None) for role in ("worker", "relay")]
        return [self._api("api", ["serve", "all"], public), *loops]

    def split(self, public: socket.socket, sockets: Mapping[str, socket.socket]) -> list[ManagedProcess]:
        """One process of each role for each service, `sockets` by service, and the gateway on the public port."""
        # The services learn from the gateway who the caller is.
        trusted = {"BROKAGE_TRUSTED_PROXIES": HOST}
        children = [
            self._api(f"{service}-api", ["serve", service], sock, service, trusted) for service, sock in sockets.items()
        ]
        children += [
            self._looping(f"{service}-{role}", role, service, service)
            for role in ("worker", "relay")
            for service in choose([ALL], role)
        ]
        upstreams = [f"{service}={sock.getsockname()[1]}" for service, sock in sockets.items()]
        return [*children, self._api("gateway", ["gateway", *upstreams], public)]

    def _api(
        self,
        name: str,
        command: Sequence[str],
        sock: socket.socket,
        service: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> ManagedProcess:
        """One that serves HTTP on a socket we hold: while it is restarted, callers wait in the socket's queue."""
        port, fd = sock.getsockname()[1], sock.fileno()
        command = [*command, "--fd", str(fd)]
        return self._child(
            name, "api", service, command, lambda _: answers_ready(port), fds=[fd], environment=environment
        )

    def _looping(self, name: str, role: str, services: str, service: str | None) -> ManagedProcess:
        """A worker or relay; it says itself that it is ready, by a file."""
        ready = self._data.path / f"{name}.ready"
        return self._child(name, role, service, [role, services], lambda _: ready.exists(), ready=ready)

    def once(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> ManagedProcess:
        """A command that ends; not supervised."""
        return self._child(name, name, None, command, lambda _: True, environment=environment)

    def _child(
        self,
        name: str,
        role: str,
        service: str | None,
        command: Sequence[str],
        probe: Callable[[int], bool],
        *,
        ready: Path | None = None,
        fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> ManagedProcess:
        told = {READY_VARIABLE: str(ready)} if ready else {}
        spec = ProcessSpec(
            name=name,
            role=role,
            service=service,
            command=[sys.executable, "-m", "infra", *command],
            log=self._data.log(name),
            probe=probe,
            environment=_MEMORY | os.environ | self._settings | dict(environment or {}) | told,
            # `python -m` puts the working directory first on the path: it must be one that shadows nothing.
            directory=ROOT,
            pass_fds=fds,
            before_spawn=(lambda: ready.unlink(missing_ok=True)) if ready else (lambda: None),
            stop_seconds=STOP_SECONDS.get(role, 5.0),
        )
        return ManagedProcess(spec, self._data.record)


def answers_ready(port: int) -> bool:
    """Whether the API there answers 200 to `/health/ready`."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
