"""Rules that hold for every answer, whatever is broken, and where violations are gathered."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.faults.client import Answer, Session
from infra.faults.history import Request
from infra.faults.people import People

FINAL = frozenset({"MATCHED", "CANCELED", "EXPIRED", "REJECTED", "ARCHIVED"})
KEPT_MAX = 50
"""Violations of one rule that are kept in full; all are counted."""


@dataclass(frozen=True, slots=True)
class Violation:
    """`rule` names what is broken: a number of reliability.md's invariants, or of the contract's."""

    rule: str
    what: str


class Violations:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: list[Violation] = []
        self.counts: Counter[str] = Counter()

    def add(self, rule: str, what: str) -> None:
        with self._lock:
            self.counts[rule] += 1
            if self.counts[rule] <= KEPT_MAX:
                self._found.append(Violation(rule, what))

    def extend(self, violations: Iterator[Violation]) -> None:
        for violation in violations:
            self.add(violation.rule, violation.what)

    @property
    def found(self) -> list[Violation]:
        with self._lock:
            return list(self._found)

    @property
    def total(self) -> int:
        return sum(self.counts.values())


class Judge:
    """Looks at each answer as it comes: who may see what, how errors look, and that final is final."""

    def __init__(self, people: People, violations: Violations) -> None:
        self._people = people
        self._violations = violations
        self._lock = threading.Lock()
        self.final: dict[str, str] = {}
        """Orders that somebody has seen final, and as what."""

    def __call__(self, session: Session, request: Request, answer: Answer) -> None:
        about = f"{request.method} {request.path} for {session.username}"
        if answer.status >= 400:
            self._look_at_problem(about, answer, request)
            return
        try:
            document = answer.document
        except ValueError:
            self._violations.add("58 answers", f"{about}: {answer.status} with a body that is not JSON")
            return
        self._look_at_scope(about, session, document)
        if request.path.startswith("/api/orders"):
            self._look_at_statuses(about, document)

    def _look_at_problem(self, about: str, answer: Answer, request: Request) -> None:
        kind = answer.headers.get("Content-Type", "")
        if not kind.startswith("application/problem+json"):
            self._violations.add("58 answers", f"{about}: {answer.status} of type {kind!r}")
        elif answer.status >= 500 and answer.status != 503:
            self._violations.add("58 answers", f"{about}: {answer.status} {answer.code}")
        elif answer.status == 503 and "Retry-After" not in answer.headers:
            self._violations.add("58 answers", f"{about}: 503 {answer.code} without Retry-After")
        if answer.status == 401 and answer.code != "token-expired" and request.kind == "sign_in":
            self._violations.add("58 answers", f"{about}: the right password was refused")

    def _look_at_scope(self, about: str, session: Session, document: Any) -> None:
        scope = self._people.scope(session)
        if scope is None:
            return
        for thing in things(document):
            customer_id = thing.get("customer_id")
            if customer_id is not None and customer_id not in scope:
                self._violations.add("55 scope", f"{about}: shows a thing of customer {customer_id}")

    def _look_at_statuses(self, about: str, document: Any) -> None:
        for thing in things(document):
            if "filled_size" not in thing:
                continue
            status = thing["status"]
            with self._lock:
                before = self.final.get(thing["id"])
                if status in FINAL and before is None:
                    self.final[thing["id"]] = status
            if before is not None and status != before:
                self._violations.add("16 final is final", f"{about}: order {thing['id']} was {before}, is {status}")


def things(document: Any) -> Iterator[dict[str, Any]]:
    """Every object in a body, at its top or in its collections."""
    if isinstance(document, dict):
        yield document
        for value in document.values():
            if isinstance(value, list):
                yield from (each for each in value if isinstance(each, dict))
