"""The contract suite runs against our own server and, if BROKAGE_TEST_MONGO_URL is set, against that one too."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database

Document = dict[str, Any]
_REAL = os.environ.get("BROKAGE_TEST_MONGO_URL")


class LocalServer:
    """Our server as a process of its own."""

    def __init__(self, data_file: Path, *options: str) -> None:
        command = [sys.executable, "-m", "infra.mongo_server", "--data-file", str(data_file), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        word, port = self.process.stdout.readline().split()
        assert word == "listening"
        self.port = int(port)
        self.url = f"mongodb://127.0.0.1:{port}"

    def terminate(self) -> int:
        self.process.terminate()
        return self._ended()

    def kill(self) -> int:
        self.process.kill()
        return self._ended()

    def _ended(self) -> int:
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def connect(url: str) -> MongoClient[Document]:
    return MongoClient(url, tz_aware=True, serverSelectionTimeoutMS=10_000)


@pytest.fixture(scope="module")
def local_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    server = LocalServer(tmp_path_factory.mktemp("mongo") / "data.sqlite", "--sweep-seconds", "0.2")
    yield server
    assert server.terminate() == 0


@pytest.fixture(scope="module", params=["local", *(["real"] if _REAL else [])])
def client(request: pytest.FixtureRequest) -> Iterator[MongoClient[Document]]:
    url = _REAL if request.param == "real" else request.getfixturevalue("local_server").url
    assert url is not None
    with connect(url) as connected:
        yield connected


@pytest.fixture
def is_local(client: MongoClient[Document]) -> bool:
    return "local" in client.server_info()["gitVersion"]


@pytest.fixture
def database(client: MongoClient[Document]) -> Iterator[Database[Document]]:
    name = f"contract_{uuid.uuid4().hex[:12]}"
    yield client[name]
    client.drop_database(name)


@pytest.fixture
def collection(database: Database[Document]) -> Collection[Document]:
    return database["things"]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Any]:
    """For tests that stop, kill or restart: `start_server()` starts one on this test's data file."""
    started: list[LocalServer] = []

    def start() -> LocalServer:
        started.append(LocalServer(tmp_path / "data.sqlite"))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()
