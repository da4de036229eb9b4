"""What was found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.reconcile.check import Check, Examined


def lines(check: Check, examined: Examined) -> Iterator[str]:
    """A line for the invariant, and one for each row that breaks it."""
    verdict = "BROKEN" if examined.broken else "ok"
    yield f"{check.number:>2}  {verdict:<6} {examined.rows:>12,} rows  {check.title}"
    for finding in examined.findings:
        yield f"      {finding.row}: {finding.reason}"
    if examined.broken > len(examined.findings):
        yield f"      and {examined.broken - len(examined.findings):,} more"
    if examined.moving:
        yield f"      {examined.moving:,} rows never came to rest and were not judged"


def document(check: Check, examined: Examined) -> dict[str, Any]:
    return {
        "number": check.number,
        "title": check.title,
        "valid": not examined.broken,
        "rows": examined.rows,
        "broken": examined.broken,
        "moving": examined.moving,
        "findings": [{"row": finding.row, "reason": finding.reason} for finding in examined.findings],
    }
