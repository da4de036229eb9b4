"""Who goes first in a worker process: what moves orders before what only tells of them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_CALM_SECONDS = 0.02


class RightOfWay:
    """Background deliveries wait while others are in work, each at most `patience_seconds`: under a burst orders settle sooner and
    the trail and the notices follow, under steady load they still advance. A bound, because a delivery waits inside its lease.

    They start once nothing has been in work for `calm_seconds`: of deliveries that come together the background's may be first.
    """

    def __init__(self, patience_seconds: float, calm_seconds: float = _CALM_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._calm_seconds = calm_seconds
        self._ahead = 0
        self._changed = threading.Condition()

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Around a delivery that others wait for."""
        with self._changed:
            self._ahead += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._ahead -= 1
                self._changed.notify_all()

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Around a background delivery."""
        until = time.monotonic() + self._patience_seconds
        with self._changed:
            while (left := until - time.monotonic()) > 0:
                self._changed.wait_for(lambda: not self._ahead, left)
                if not self._changed.wait_for(lambda: self._ahead, min(left, self._calm_seconds)):
                    break
        yield
