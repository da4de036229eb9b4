"""Named places where a test may break the process. Without an injector, `fault()` does nothing.

`fault("outbox.before_flush")` stands at a step boundary. A test installs an injector with `inject()`; a whole process takes
one from `BROKAGE_FAULTS=point:kind:nth[,...]` (kinds: error, kill, delay), in the test profile only.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class InjectedFault(Exception):
    """Raised at a fault point by a test. Never raised in production."""


Injector = Callable[[str], None]
_injector: Injector | None = None


def fault(point: str) -> None:
    if _injector is not None:
        _injector(point)


@contextmanager
def inject(injector: Injector) -> Iterator[None]:
    """Install `injector` for a block; tests only."""
    global _injector
    previous, _injector = _injector, injector
    try:
        yield
    finally:
        _injector = previous


def install_from_environment() -> None:
    """Install what `BROKAGE_FAULTS` names, when `BROKAGE_PROFILE` is `test`."""
    global _injector
    plan = os.environ.get("BROKAGE_FAULTS")
    if not plan or os.environ.get("BROKAGE_PROFILE") != "test":
        return
    rules = [rule.split(":") for rule in plan.split(",")]
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def injector(point: str) -> None:
        with lock:
            seen[point] += 1
            count = seen[point]
        for name, kind, nth in rules:
            if name == point and int(nth) == count:
                _act(point, kind)

    _injector = injector


def _act(point: str, kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind.startswith("delay"):
        time.sleep(float(kind.removeprefix("delay") or 1))
        return
    raise InjectedFault(point)
