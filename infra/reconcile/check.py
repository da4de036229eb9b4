"""The shape of a check: it examines rows and names those that break its invariant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.reconcile.stores import Stores


@dataclass(frozen=True, slots=True)
class Finding:
    """A row that breaks an invariant: which, and why."""

    row: str
    reason: str


@dataclass(slots=True)
class Examined:
    """What a check saw. `findings` holds the first `limit` of `broken` rows; `moving` rows never stood still long enough to
    be judged, which happens only under traffic or behind a message that is stuck, and that is a finding itself."""

    limit: int
    rows: int = 0
    broken: int = 0
    moving: int = 0
    findings: list[Finding] = field(default_factory=list)

    def found(self, row: str, reason: str) -> None:
        self.broken += 1
        if len(self.findings) < self.limit:
            self.findings.append(Finding(row, reason))


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant of the contract, by its number there. `run` adds what it sees to what it is given."""

    number: int
    title: str
    run: Callable[[Stores, Examined], None]
