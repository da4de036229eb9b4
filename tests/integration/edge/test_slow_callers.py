"""Callers who take their time: each holds a connection for a bounded time, and nobody else waits for him."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared.http import protocol, route

PATIENCE_SECONDS = 0.3
ENOUGH_SECONDS = 20.0


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEAD_SECONDS_MAX", "BODY_SECONDS_MAX", "STALLED_SECONDS_MAX"):
        monkeypatch.setattr(protocol, name, PATIENCE_SECONDS)


@contextmanager
def connected(served: Any, first: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=ENOUGH_SECONDS) as connection:
        connection.sendall(first)
        yield connection


def drip_until_closed(connection: socket.socket, drop: bytes = b"x") -> bytes:
    """What came back until the server closed, while a byte was sent now and then."""
    connection.settimeout(0.05)
    answer = b""
    deadline = time.monotonic() + ENOUGH_SECONDS
    while time.monotonic() < deadline:
        try:
            received = connection.recv(65536)
            if not received:
                return answer
            answer += received
        except TimeoutError:
            pass
        except OSError:
            return answer
        try:
            connection.sendall(drop)
        except OSError:
            return answer
    raise AssertionError("the connection was not closed")


class TestSlowCallers:
    @pytest.mark.parametrize(
        ("first", "drop"),
        [(b"", b""), (b"", b"\r\n"), (b"G", b""), (b"GET /nowhere HTTP/1.1\r\nHost: a\r\nX-Slow: ", b"x")],
        ids=["nothing", "line breaks", "a byte", "a header"],
    )
    def test_of_headers_are_cut(self, served: Any, first: bytes, drop: bytes) -> None:
        with connected(served, first) as connection:
            assert drip_until_closed(connection, drop) == b""

    def test_of_a_second_request_too(self, served: Any) -> None:
        with connected(served, b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n") as connection:
            assert b"200 OK" in connection.recv(65536)
            assert drip_until_closed(connection, b"\r\n") == b""

    def test_of_a_body_are_told_and_cut(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(route, "BODY_SECONDS_MAX", 0.1)
        token = served.token(served.world.add()).encode()
        head = b"POST /api/orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer " + token
        head += b"\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{"
        with connected(served, head) as connection:
            answer = drip_until_closed(connection)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"request-timeout" in answer

    def test_of_a_body_that_nobody_waits_for_are_cut(self, served: Any) -> None:
        """Refused before the body is read, a caller could go on sending a byte now and then for ever."""
        head = b"POST /api/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"
        with connected(served, head) as connection:
            assert drip_until_closed(connection).startswith(b"HTTP/1.1 401")

    def test_who_do_not_read_are_cut(self, served: Any) -> None:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", served.port))
            connection.settimeout(ENOUGH_SECONDS)
            request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
            with pytest.raises(OSError):
                for _ in range(100_000):
                    connection.sendall(request)
                    time.sleep(0.001)

    def test_who_leave_are_no_errors_of_ours(self, served: Any) -> None:
        def counted(status: int) -> float:
            labels = {"method": "POST", "route": "/api/orders", "status": str(status)}
            return REGISTRY.get_sample_value("brokage_http_requests_total", labels) or 0.0

        errors, left = counted(500), counted(499)
        head = f"POST /api/orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {served.token(served.world.add())}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as connection:
            connection.sendall(head.encode() + b"{")
            time.sleep(0.1)
        deadline = time.monotonic() + 5
        while counted(499) == left and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (counted(500) - errors, counted(499) - left) == (0, 1)

    def test_do_not_keep_others_waiting(self, served: Any) -> None:
        with ExitStack() as stack:
            slow = [stack.enter_context(connected(served, b"GET / HTTP/1.1\r\nX:")) for _ in range(200)]
            assert served.call("GET", "/health/live").status_code == 200
            assert [connection.recv(1) for connection in slow] == [b""] * 200

    def test_who_say_nothing_make_room_for_who_comes_to_ask(self, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A thousand of them, where there is room for a hundred, and for longer than this takes."""
        monkeypatch.setattr(protocol, "CONNECTIONS_MAX", 100)
        monkeypatch.setattr(protocol, "HEAD_SECONDS_MAX", 60.0)
        head = f"POST /api/orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {served.token(served.world.add())}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        monkeypatch.setattr(protocol, "BODY_SECONDS_MAX", 60.0)
        with ExitStack() as stack:
            in_work = stack.enter_context(connected(served, head.encode()))
            time.sleep(0.1)
            idle = []
            for _ in range(10):
                idle += [stack.enter_context(connected(served)) for _ in range(100)]
                started = time.monotonic()
                assert served.call("GET", "/health/live").status_code == 200
                assert time.monotonic() - started < 2.0
            deadline = time.monotonic() + 10
            # Told to go is not gone: the server closes them while it does other things.
            while len(open_still := [each for each in idle if not is_closed(each)]) > 100:
                assert time.monotonic() < deadline, len(open_still)
                time.sleep(0.05)
            assert open_still == idle[-len(open_still) :], "the longest waiting went first"
            assert not is_closed(in_work)


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.0)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
