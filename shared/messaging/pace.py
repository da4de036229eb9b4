"""When a relay takes its next step, and who is left out of it.

A message of one event costs almost as much as one of a hundred: at some tens of orders a second it is the number of messages that
takes the processor's time, and with it everybody's. So what need not go at once waits for company: at most one step follows
another at once, an acknowledgement waits for the next thing to be said, and readers who only tell of orders get several small
messages as one. What moves an order after a rest waits for nothing. All of it ends where messages are large.
"""

import math
from collections import Counter
from collections.abc import Collection

from shared.messaging.outbox import TELLING

_SMALL = 20
_FULL = 500
"""Who was given so many events at once is behind: he gets the next as soon as he asks."""


class Pace:
    """One per relay. Times are of the monotonic clock. Not safe for threads by itself.

    Args:
        sweep_seconds: how long nothing is done if nobody asks for anything.
        linger_seconds: from the end of a small step to the next one: how long steps take is how busy everything is.
        acknowledgement_seconds: how long an acknowledgement alone may wait for a step.
        telling_seconds: from one small message to a `TELLING` reader to the next.
    """

    def __init__(
        self, *, sweep_seconds: float, linger_seconds: float, acknowledgement_seconds: float, telling_seconds: float
    ) -> None:
        self._sweep_seconds = sweep_seconds
        self._linger_seconds = linger_seconds
        self._acknowledgement_seconds = acknowledgement_seconds
        self._telling_seconds = telling_seconds
        self._began = self._ended = -math.inf
        self._events: Counter[str] = Counter()
        self._rang = False
        self._acknowledged_at: float | None = None
        self._told_again: dict[str, float] = {}
        self._left_out: Collection[str] = ()

    def rang(self) -> None:
        """Something was written to the outbox."""
        self._rang = True

    def acknowledged(self, now: float) -> None:
        if self._acknowledged_at is None:
            self._acknowledged_at = now

    def due(self) -> float:
        """When the next step is."""
        small = self._events.total() < _SMALL
        earliest = self._ended + (self._linger_seconds if small else 0.0)
        due = self._began + self._sweep_seconds
        if self._rang:
            due = min(due, earliest)
        if self._acknowledged_at is not None:
            # A lane that becomes free is worth a step only if something waits in it: mostly that has rung, or will.
            due = min(due, max(earliest, self._acknowledged_at + (self._acknowledgement_seconds if small else 0.0)))
        for reader in self._left_out:
            due = min(due, max(earliest, self._told_again[reader]))
        return due

    def begin(self, now: float) -> Collection[str]:
        """A step begins; the readers who are left out of it."""
        self._began = self._ended = now
        self._events.clear()
        self._rang, self._acknowledged_at = False, None
        self._left_out = [reader for reader, moment in self._told_again.items() if now < moment]
        return self._left_out

    def ended(self, now: float) -> None:
        """The step that had begun."""
        self._ended = now

    def published(self, reader: str, events: int) -> None:
        """In the step that has begun."""
        self._events[reader] += events
        if reader in TELLING:
            small = self._events[reader] < _FULL
            self._told_again[reader] = self._began + (self._telling_seconds if small else 0.0)
