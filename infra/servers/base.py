"""What the three embedded servers have in common: a port that stays theirs, and one managed process."""

from __future__ import annotations

from abc import ABC, abstractmethod

from infra.runtime.data_directory import DataDirectory
from infra.runtime.failures import StartFailed
from infra.runtime.process import ManagedProcess, ProcessSpec
from infra.servers.ports import free_port, is_free

READY_SECONDS = 60.0
PORT_ATTEMPTS = 5


class Server(ABC):
    """An embedded server: `prepare`, `spawn`, `wait_ready`; afterwards `kill`, `restart` and `stop` at will."""

    def __init__(self, data: DataDirectory, name: str) -> None:
        self._data = data
        self.name = name
        self.port = 0
        self.process = ManagedProcess(self.make_spec(), data.record)

    @abstractmethod
    def make_spec(self) -> ProcessSpec:
        """How to run it; called once, before a port is known."""

    @abstractmethod
    def prepare(self) -> None:
        """Make its files and choose its port; it is not running."""

    @abstractmethod
    def write_settings(self) -> None:
        """Put the chosen port where the server reads it."""

    def choose_port(self, known: bool = True) -> None:
        self.port = free_port(self._data.known_port(self.name) if known else None)
        self.write_settings()

    def spawn(self) -> None:
        """Start the process and return at once."""
        self.process.spawn()

    def wait_ready(self) -> None:
        """Wait until it serves; somebody who took the port since it was chosen costs another try, on another port."""
        for attempt in range(PORT_ATTEMPTS):
            try:
                self.process.wait_ready(READY_SECONDS)
                break
            except StartFailed:
                if attempt == PORT_ATTEMPTS - 1 or self.process.alive or is_free(self.port):
                    raise
                self.choose_port(known=False)
                self.process.spawn()
        self._data.keep_port(self.name, self.port)

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        """Stop if it runs, start again on the same port, wait until it serves."""
        self.process.stop()
        self.process.spawn()
        self.process.wait_ready(READY_SECONDS)
