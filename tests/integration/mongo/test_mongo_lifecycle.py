"""Our server as a process: restarts, kills, bad bytes, dropped connections."""

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bson
from pymongo import MongoClient, WriteConcern
from pymongo.errors import AutoReconnect

Start = Callable[[], Any]


def open_client(server: Any) -> MongoClient[dict[str, Any]]:
    return MongoClient(server.url, tz_aware=True, serverSelectionTimeoutMS=10_000)


class TestRestart:
    def test_documents_and_indexes_survive_a_restart(self, start_server: Start) -> None:
        server = start_server()
        with open_client(server) as client:
            client.app.things.create_index("n", unique=True)
            client.app.things.insert_many([{"_id": number, "n": number, "tags": [1, 2]} for number in range(100)])
        assert server.terminate() == 0
        with open_client(start_server()) as client:
            assert client.app.things.count_documents({}) == 100
            assert client.app.things.index_information()["n_1"]["unique"] is True
            assert client.app.things.find_one({"n": 77}) == {"_id": 77, "n": 77, "tags": [1, 2]}
            assert client.list_database_names() == ["app"]

    def test_acknowledged_writes_survive_kill_9(self, start_server: Start) -> None:
        server = start_server()
        acknowledged: list[int] = []
        begun = threading.Event()

        def write(first: int) -> None:
            with open_client(server) as client:
                for number in range(first, first + 100_000, 10):
                    documents = [{"_id": number + offset} for offset in range(10)]
                    try:
                        client.app.things.insert_many(documents)
                    except AutoReconnect:
                        return
                    acknowledged.extend(range(number, number + 10))
                    if len(acknowledged) > 2000:
                        begun.set()

        writers = [threading.Thread(target=write, args=(writer * 1_000_000,)) for writer in range(2)]
        for writer in writers:
            writer.start()
        assert begun.wait(60)
        assert server.kill() == -signal.SIGKILL
        for writer in writers:
            writer.join(60)
        with open_client(start_server()) as client:
            stored = {doc["_id"] for doc in client.app.things.find()}
        assert stored >= set(acknowledged)
        assert len(stored) % 10 == 0, "a command is stored whole or not at all"
        assert len(stored) - len(acknowledged) <= 20

    def test_second_server_on_the_file_is_refused(self, start_server: Start, tmp_path: Path) -> None:
        start_server()
        command = [sys.executable, "-m", "infra.mongo_server", "--data-file", str(tmp_path / "data.sqlite")]
        second = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert second.returncode == 1
        assert "cannot start" in second.stderr
        assert second.stdout == ""

    def test_interrupt_ends_cleanly_with_a_client_connected(self, start_server: Start) -> None:
        server = start_server()
        with open_client(server) as client:
            client.app.things.insert_one({"_id": 1})
            os.kill(server.process.pid, signal.SIGINT)
            assert server.process.wait(10) == 0


class TestBadInput:
    def _send(self, server: Any, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                return connection.recv(65536)
            except OSError as error:
                # The server may have ended the connection before all of it was sent.
                assert error.errno in (errno.ECONNRESET, errno.ENOTCONN, errno.EPIPE)
                return b""

    def test_garbage_ends_only_its_own_connection(self, start_server: Start) -> None:
        server = start_server()
        body = bson.encode({"ping": 1, "$db": "admin"})
        message = struct.pack("<iiiiI", 21 + len(body), 1, 0, 2013, 0) + b"\0" + body
        bad = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 64,
            struct.pack("<iiii", 0, 1, 0, 2013),
            struct.pack("<iiii", 2**31 - 1, 1, 0, 2013),
            message[:-7],
            message[:30],
            message.replace(b"ping", b"p\xffng"),
            struct.pack("<iiiiI", 21 + len(body), 1, 0, 2013, 1) + b"\0" + body,
            struct.pack("<iiiiI", 21 + len(body), 1, 0, 2013, 0) + b"\x07" + body,
            struct.pack("<iiiiI", 25, 1, 0, 2013, 0) + b"\0" + struct.pack("<i", 2**30),
            struct.pack("<iiiiI", 21 + len(body), 1, 0, 2012, 0) + b"\0" + body,
        ]
        with open_client(server) as client:
            client.admin.command("ping")
            for data in bad:
                assert self._send(server, data) == b"", data
            assert b"ok" in self._send(server, message)
            assert client.admin.command("ping")["ok"] == 1.0

    def test_nested_documents_to_the_depth_of_bson(self, start_server: Start) -> None:
        with open_client(start_server()) as client:
            document: dict[str, Any] = {"k": 1}
            for _ in range(90):
                document = {"d": document}
            client.app.things.create_index("d")
            client.app.things.insert_one({"_id": 1, **document})
            assert client.app.things.find_one(document) is not None

    def test_unacknowledged_writes_get_no_answer_and_are_stored(self, start_server: Start) -> None:
        with open_client(start_server()) as client:
            things = client.get_database("app").get_collection("things")
            things.with_options(write_concern=WriteConcern(w=0)).insert_one({"_id": 1})
            deadline = time.monotonic() + 10
            while things.count_documents({}) == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            assert things.find_one() == {"_id": 1}
