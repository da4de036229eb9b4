"""A circuit breaker against a real server that fails, hangs and comes back."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from shared.breaker import CircuitBreaker, CircuitOpen, CircuitState

CLOSED, HALF_OPEN, OPEN = CircuitState.CLOSED, CircuitState.HALF_OPEN, CircuitState.OPEN


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Answers one byte to each connection, closes it at once (`mode = "fail"`), or says nothing (`"hang"`)."""

    def __init__(self) -> None:
        self.mode = "answer"
        self.connections = 0
        self._held: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                if self.mode == "hang":
                    self._held.append(connection)
                    continue
                if self.mode == "answer":
                    connection.sendall(b"!")
                connection.close()

    def ask(self) -> bytes:
        with socket.create_connection(self._socket.getsockname(), timeout=0.1) as connection:
            answer = connection.recv(1)
        if not answer:
            raise ConnectionResetError("closed without an answer")
        return answer

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        for connection in self._held:
            connection.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock, request: pytest.FixtureRequest) -> CircuitBreaker:
    return CircuitBreaker(request.node.name, failures=(OSError,), failures_max=3, open_seconds=30, now=clock)


def ask(breaker: CircuitBreaker, server: Server) -> bytes:
    with breaker.call():
        return server.ask()


def fail(breaker: CircuitBreaker, server: Server, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(OSError):
            ask(breaker, server)


def shown(breaker: CircuitBreaker) -> dict[str, float | None]:
    labels = {"circuit": breaker.name}
    return {
        state.value: REGISTRY.get_sample_value("brokage_circuit_state", {**labels, "state": state.value})
        for state in CircuitState
    }


def count(breaker: CircuitBreaker, outcome: str) -> float | None:
    labels = {"circuit": breaker.name, "outcome": outcome}
    return REGISTRY.get_sample_value("brokage_circuit_calls_total", labels)


@pytest.mark.parametrize("mode", ["fail", "hang"])
def test_opens_after_failures_in_a_row_and_closes_when_the_server_is_back(
    breaker: CircuitBreaker, server: Server, clock: Clock, mode: str
) -> None:
    assert ask(breaker, server) == b"!"
    server.mode = mode
    fail(breaker, server, times=3)
    assert breaker.state is OPEN
    reached = server.connections
    for _ in range(5):
        with pytest.raises(CircuitOpen) as refused:
            ask(breaker, server)
    assert (server.connections, refused.value.retry_seconds) == (reached, 30)
    server.mode = "answer"
    clock.now += 30
    assert ask(breaker, server) == b"!"
    assert breaker.state is CLOSED
    assert (count(breaker, "succeeded"), count(breaker, "failed"), count(breaker, "refused")) == (2, 3, 5)


def test_a_trial_that_fails_opens_it_again_for_as_long(breaker: CircuitBreaker, server: Server, clock: Clock) -> None:
    server.mode = "fail"
    fail(breaker, server, times=3)
    clock.now += 30
    fail(breaker, server)
    assert breaker.state is OPEN
    clock.now += 29.9
    with pytest.raises(CircuitOpen):
        ask(breaker, server)


def test_a_success_in_between_starts_the_count_anew(breaker: CircuitBreaker, server: Server) -> None:
    for _ in range(3):
        server.mode = "fail"
        fail(breaker, server, times=2)
        server.mode = "answer"
        ask(breaker, server)
    assert breaker.state is CLOSED


def test_of_many_threads_one_makes_the_trial_and_none_waits_for_it(
    breaker: CircuitBreaker, server: Server, clock: Clock
) -> None:
    server.mode = "fail"
    fail(breaker, server, times=3)
    clock.now += 30
    with breaker.call():  # this one is on trial, and takes its time
        assert (breaker.state, shown(breaker)) == (HALF_OPEN, {"closed": 0, "half-open": 1, "open": 0})
        refused = []
        threads = [threading.Thread(target=lambda: refused.append(_is_refused(breaker))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert refused == [True] * 8
    assert breaker.state is CLOSED


def _is_refused(breaker: CircuitBreaker) -> bool:
    try:
        with breaker.call():
            return False
    except CircuitOpen:
        return True


def test_a_trial_that_never_ends_does_not_keep_it_shut_for_ever(
    breaker: CircuitBreaker, server: Server, clock: Clock
) -> None:
    server.mode = "fail"
    fail(breaker, server, times=3)
    clock.now += 30
    lost = breaker.call()
    lost.__enter__()
    server.mode = "answer"
    assert _is_refused(breaker)
    clock.now += 30
    assert ask(breaker, server) == b"!"


def test_an_old_calls_late_success_does_not_close_it(breaker: CircuitBreaker, server: Server) -> None:
    late = breaker.call()
    late.__enter__()
    server.mode = "fail"
    fail(breaker, server, times=3)
    late.__exit__(None, None, None)
    assert breaker.state is OPEN


def test_an_answer_that_is_not_as_wished_is_no_failure(breaker: CircuitBreaker) -> None:
    for _ in range(5):
        with pytest.raises(ValueError, match="no"), breaker.call():
            raise ValueError("no")
    assert breaker.state is CLOSED


def test_the_metric_shows_the_state(breaker: CircuitBreaker, server: Server) -> None:
    assert shown(breaker) == {"closed": 1, "half-open": 0, "open": 0}
    server.mode = "fail"
    fail(breaker, server, times=3)
    assert shown(breaker) == {"closed": 0, "half-open": 0, "open": 1}
