"""Circuit breakers: calls over the network to what may be away. After some failures in a row nobody waits for it any more.

closed     calls go through; failures in a row are counted.
open       calls are refused at once, for a while.
half-open  that while is over: one call goes through as a trial. It succeeds: closed. It fails: open again.

Own code: the lock must not be held during the call, else one that hangs holds every thread, and exactly one trial may go
through. Of the libraries looked at, pybreaker 1.4 holds its lock, purgatory 3.0 lets every caller try.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum

from prometheus_client import Counter, Gauge

from shared.logging import logger

log = logger(__name__)


class CircuitState(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


_STATE = Gauge("brokage_circuit_state", "Whether calls go through: 1 for the state it is in.", ["circuit", "state"])
_CALLS = Counter("brokage_circuit_calls_total", "Calls by what became of them.", ["circuit", "outcome"])


class CircuitOpen(Exception):
    """The call was not made: the last ones failed, and it is not yet time to try again."""

    def __init__(self, name: str, retry_seconds: float) -> None:
        super().__init__(f"{name} does not answer; the next trial is in {retry_seconds:.0f} s")
        self.retry_seconds = retry_seconds


class CircuitBreaker:
    """One for each thing that is called, shared by all threads of the process."""

    def __init__(
        self,
        name: str,
        *,
        failures: tuple[type[Exception], ...],
        failures_max: int = 5,
        open_seconds: float = 30.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            failures: what says that the other side is away; anything else it raises is an answer.
            failures_max: so many in a row open it.
            open_seconds: then a trial is allowed.
        """
        self.name = name
        self._failures = failures
        self._failures_max = failures_max
        self._open_seconds = open_seconds
        self._now = now
        self._lock = threading.Lock()
        self._count = 0
        self._state = CircuitState.CLOSED
        self._trial_at = 0.0
        """Open: when a trial is allowed. Half-open: when the trial counts as lost, and another is."""
        self._show()

    @property
    def state(self) -> CircuitState:
        return self._state

    @property
    def refuses(self) -> bool:
        """Whether a call now would be refused; for who has something to prepare first."""
        with self._lock:
            return self._state is not CircuitState.CLOSED and self._now() < self._trial_at

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call. The call must have a time limit of its own: until it ends it has not failed.

        Raises:
            CircuitOpen: instead of the call.
        """
        self._enter()
        try:
            yield
        except self._failures as error:
            self._failed(error)
            raise
        except BaseException:
            self._succeeded()  # it answered, if not as wished
            raise
        self._succeeded()

    def _enter(self) -> None:
        with self._lock:
            if self._state is CircuitState.CLOSED:
                return
            now = self._now()
            if now < self._trial_at:
                _CALLS.labels(self.name, "refused").inc()
                raise CircuitOpen(self.name, self._trial_at - now)
            # Should the one on trial never come back, the next is let through when it is late.
            self._trial_at = now + self._open_seconds
            self._change(CircuitState.HALF_OPEN)

    def _failed(self, error: Exception) -> None:
        with self._lock:
            _CALLS.labels(self.name, "failed").inc()
            self._count += 1
            if self._state is CircuitState.HALF_OPEN or self._count >= self._failures_max:
                self._trial_at = self._now() + self._open_seconds
                self._change(CircuitState.OPEN, error)

    def _succeeded(self) -> None:
        with self._lock:
            _CALLS.labels(self.name, "succeeded").inc()
            if self._state is not CircuitState.OPEN:  # an old call's late success says nothing of now
                self._count = 0
                self._change(CircuitState.CLOSED)

    def _change(self, state: CircuitState, error: Exception | None = None) -> None:
        if state is self._state:
            return
        reason = {} if error is None else {"error": type(error).__name__}
        log.warning("circuit changed", circuit=self.name, before=self._state.value, after=state.value, **reason)
        self._state = state
        self._show()

    def _show(self) -> None:
        for state in CircuitState:
            _STATE.labels(self.name, state.value).set(1 if state is self._state else 0)
