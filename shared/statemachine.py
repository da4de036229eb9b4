"""State machines are tables: `(state, message type) -> what follows`. Nothing here knows any business."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class InvalidTransition(Exception):
    """The table has no row for this state and message, and does not list the pair as ignored: a bug or a forged message."""

    def __init__(self, state: object, message: str) -> None:
        super().__init__(f"{message} is not possible in {state}")
        self.state = state
        self.message = message


class StateMachine(Generic[S, T]):
    """A table of transitions, the pairs that are late or repeated and so ignored, and the states where life ends.

    Messages are named by their type's name, so that a table reads as the contract does.
    """

    def __init__(
        self, rows: Mapping[tuple[S, str], T], *, ignored: AbstractSet[tuple[S, str]], terminal: AbstractSet[S]
    ) -> None:
        both = ignored & rows.keys()
        if both:
            raise ValueError(f"both a transition and ignored: {sorted(map(str, both))}")
        self.rows = dict(rows)
        self.ignored = frozenset(ignored)
        self.terminal = frozenset(terminal)

    def decide(self, state: S, message: str) -> T | None:
        """What follows `message` in `state`; None if it is late or repeated and changes nothing.

        Raises:
            InvalidTransition: neither a row nor ignored.
        """
        row = self.rows.get((state, message))
        if row is not None:
            return row
        if (state, message) in self.ignored:
            return None
        raise InvalidTransition(state, message)
