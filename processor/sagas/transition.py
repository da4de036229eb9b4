"""What a row of a saga table says."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

S = TypeVar("S", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Transition(Generic[S]):
    """The next state and the names of the commands to send, in order. The last one is what the next state awaits the answer of."""

    target: S
    commands: tuple[str, ...] = ()
