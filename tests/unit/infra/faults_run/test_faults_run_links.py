"""Links, with a server that echoes behind them."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from infra.faults.kinds.wires import COMMITTED
from infra.faults.links import Bend, Cut, Link, Links


class Echo:
    """Answers every piece with itself, in capitals."""

    def __init__(self) -> None:
        self.heard = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.heard += data
                connection.sendall(data.upper())

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def link(echo: Echo) -> Iterator[Link]:
    link = Link("echo", lambda: echo.port)
    with Links([link]):
        yield link


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=5)


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    answer = b""
    while len(answer) < len(data):
        part = connection.recv(65536)
        if not part:
            break
        answer += part
    return answer


def is_cut(connection: socket.socket, data: bytes = b"x") -> bool:
    try:
        return ask(connection, data) == b""
    except OSError:
        return True


def is_refused(link: Link) -> bool:
    """A new connection is reset: while it is made, or right after."""
    try:
        with connect(link) as connection:
            return is_cut(connection)
    except ConnectionError:
        return True


class TestLink:
    def test_a_healthy_one_passes_everything(self, link: Link) -> None:
        with connect(link) as connection:
            data = b"abc" * 100_000
            sender = threading.Thread(target=connection.sendall, args=(data,))
            sender.start()
            answer = b""
            while len(answer) < len(data):
                answer += connection.recv(65536)
            sender.join()
        assert answer == data.upper()
        assert link.seen.connections == 1

    def test_down_cuts_what_is_open_and_refuses_what_is_new(self, link: Link) -> None:
        with connect(link) as connection:
            assert ask(connection, b"a") == b"A"
            link.bend = Bend(down=True)
            assert link.reset_all() == 1
            assert is_cut(connection)
        assert is_refused(link)
        assert (link.seen.reset, link.seen.refused) == (1, 1)
        link.heal()
        with connect(link) as connection:
            assert ask(connection, b"b") == b"B"

    def test_latency_delays_both_ways(self, link: Link) -> None:
        with connect(link) as connection:
            link.bend = Bend(latency=0.1)
            started = time.monotonic()
            assert ask(connection, b"a") == b"A"
            assert time.monotonic() - started >= 0.2
        assert link.seen.delayed == 2

    def test_held_bytes_come_once_it_is_healed(self, link: Link) -> None:
        with connect(link) as connection:
            link.bend = Bend(held=True)
            connection.sendall(b"a")
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            link.heal()
            connection.settimeout(5)
            assert connection.recv(1) == b"A"
        assert link.seen.held > 0

    def test_pieces_and_narrow_links_lose_nothing(self, link: Link) -> None:
        with connect(link) as connection:
            for bend in (Bend(piece=7), Bend(bytes_per_second=1_000_000)):
                link.bend = bend
                assert ask(connection, b"abcdefghij" * 300) == b"ABCDEFGHIJ" * 300
        assert link.seen.delayed > 400


class TestCut:
    def test_an_answer_is_dropped_after_the_server_has_done_it(self, link: Link, echo: Echo) -> None:
        link.bend = Bend(cut=(cut := Cut("client", b"DONE", remaining=1)))
        with connect(link) as connection:
            assert ask(connection, b"other") == b"OTHER"
            assert is_cut(connection, b"done")
        assert echo.heard == b"otherdone"
        assert (cut.happened, cut.remaining) == (1, 0)
        with connect(link) as connection:
            assert ask(connection, b"done") == b"DONE"

    def test_a_request_is_dropped_before_the_server_sees_it(self, link: Link, echo: Echo) -> None:
        link.bend = Bend(cut=Cut("server", b"commit"))
        with connect(link) as connection:
            assert is_cut(connection, b"commit")
        assert echo.heard == b""

    def test_the_answer_to_a_request_is_dropped_whatever_it_is(self, link: Link, echo: Echo) -> None:
        link.bend = Bend(cut=Cut("answer", b"insert"))
        with connect(link) as connection:
            assert ask(connection, b"find") == b"FIND"
            assert is_cut(connection, b"insert")
        assert echo.heard == b"findinsert"

    def test_a_pattern_across_two_reads_is_seen(self, link: Link) -> None:
        link.bend = Bend(cut=(cut := Cut("server", b"commit")))
        with connect(link) as connection:
            assert ask(connection, b"com") == b"COM"
            assert is_cut(connection, b"mit")
        assert cut.happened == 1

    def test_what_postgres_says_of_a_commit_is_the_pattern(self) -> None:
        # A CommandComplete: its type, its length without the type, and the tag.
        tag = b"COMMIT\x00"
        assert b"C" + (4 + len(tag)).to_bytes(4, "big") + tag == COMMITTED
