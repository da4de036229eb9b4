"""Who goes first in a worker process: what moves orders before what only tells of them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class RightOfWay:
    """Background deliveries wait while others are in work, each at most `patience_seconds`: under a burst orders settle sooner and
    the trail and the notices follow, under steady load they still advance. A bound, because a delivery waits inside its lease."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._ahead = 0
        self._changed = threading.Condition()

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Around a delivery that others wait for."""
        with self._changed:
            self._ahead += 1
        try:
            yield
        finally:
            with self._changed:
                self._ahead -= 1
                if not self._ahead:
                    self._changed.notify_all()

    @contextmanager
    def behind(self) -> Iterator[None]:
        """Around a background delivery."""
        with self._changed:
            self._changed.wait_for(lambda: not self._ahead, self._patience_seconds)
        yield
