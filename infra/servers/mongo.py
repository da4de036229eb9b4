"""MongoDB for a local run: `mongod` if it is on PATH, else our own wire server over SQLite."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys

from infra.runtime.data_directory import DataDirectory
from infra.runtime.process import ProcessSpec
from infra.servers.base import Server
from infra.servers.ports import LOOPBACK

PROBE_SECONDS = 0.5
# OP_MSG {ping: 1, $db: "admin"} by hand: a driver would cost the supervisor its import and its memory.
_PING = b"\x10ping\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0"
_DOCUMENT = (len(_PING) + 5).to_bytes(4, "little") + _PING + b"\0"
_BODY = (1).to_bytes(4, "little") + bytes(4) + (2013).to_bytes(4, "little") + bytes(4) + b"\0" + _DOCUMENT
PING_MESSAGE = (len(_BODY) + 4).to_bytes(4, "little") + _BODY


class MongoServer(Server):
    """One MongoDB on the loopback interface."""

    def __init__(self, data: DataDirectory) -> None:
        self._home = data.path / "mongo"
        self._mongod = shutil.which("mongod")
        super().__init__(data, "mongo")

    def make_spec(self) -> ProcessSpec:
        return ProcessSpec(
            name="mongo",
            role="mongo",
            command=[],
            log=self._data.log("mongo"),
            probe=self._is_ready,
            environment=dict(os.environ),
            death_signal=signal.SIGTERM,
        )

    def prepare(self) -> None:
        self._home.mkdir(mode=0o700, exist_ok=True)
        self.choose_port()

    def write_settings(self) -> None:
        if self._mongod:
            store = self._home / "mongod"
            store.mkdir(mode=0o700, exist_ok=True)
            command = [self._mongod, "--dbpath", str(store), "--bind_ip", LOOPBACK]
        else:
            # The working directory of the caller may hold modules of any name; the repository is on the path anyway.
            command = [sys.executable, "-m", "infra.mongo_server", "--data-file", str(self._home / "mongo.sqlite")]
        self.process.command = [*command, "--port", str(self.port)]

    def _is_ready(self, pid: int) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=PROBE_SECONDS) as connection:
                connection.settimeout(PROBE_SECONDS)
                connection.sendall(PING_MESSAGE)
                return len(connection.recv(16)) == 16
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"mongodb://{LOOPBACK}:{self.port}"
