"""What a run has shown, as one JSON document and as a page to read."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.faults.injector import Fault
from infra.faults.judge import Violations
from infra.faults.recovery import Recovery

JSON_FILE, TEXT_FILE = "report.json", "report.txt"


@dataclass(slots=True)
class Report:
    """Throughputs are orders a second that were acknowledged to clients who send as fast as they get answers."""

    seed: int
    seconds: float
    violations: Violations
    settings: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: dict[str, dict[str, int]] = field(default_factory=dict)
    orders: int = 0
    trades: int = 0
    asked_again: int = 0
    calm_throughput: float = 0.0
    faulty_throughput: float = 0.0
    paced_throughput: float = 0.0
    drain_seconds: float = 0.0
    invariants: list[dict[str, Any]] = field(default_factory=list)
    recovery: list[Recovery] = field(default_factory=list)
    took_seconds: float = 0.0

    @property
    def effective(self) -> list[Fault]:
        return [fault for fault in self.faults if fault.effect is not None]

    @property
    def kinds(self) -> Counter[str]:
        return Counter(fault.kind for fault in self.effective)

    @property
    def passed(self) -> bool:
        return not self.violations.total

    def verdict(self) -> str:
        word = "PASSED" if self.passed else "FAILED"
        return (
            f"{word}: {self.violations.total} violations, {self.orders:,} orders, {len(self.effective)} effective faults of"
            f" {len(self.kinds)} kinds, seed {self.seed}"
        )

    def text(self) -> str:
        lines = [self.verdict(), "", *self._figures(), ""]
        if self.violations.total:
            lines += ["VIOLATIONS"]
            lines += [f"  {rule}: {count}" for rule, count in sorted(self.violations.counts.items())]
            lines += [f"    {each.rule}: {each.what}" for each in self.violations.found] + [""]
        if self.recovery:
            lines += ["RECOVERY", *(f"  {recovery.line()}" for recovery in self.recovery), ""]
        lines += ["INVARIANTS OF THE STORES"]
        lines += [
            f"  {each['number']:>2}  {'ok' if each['valid'] else 'BROKEN':<6} {each['rows']:>12,} rows  {each['title']}"
            for each in self.invariants
        ]
        lines += ["", "REQUESTS (ok, refused, unknown before it was asked again)"]
        lines += [f"  {kind:<12} {_counts(counts)}" for kind, counts in self.requests.items()]
        lines += ["", "EFFECTIVE FAULTS BY KIND", *(f"  {n:>4}  {kind}" for kind, n in sorted(self.kinds.items()))]
        lines += ["", "FAULTS IN THEIR ORDER", *(f"  {fault.line()}" for fault in self.faults), ""]
        lines += ["SETTINGS", *(f"  {name}={value}" for name, value in sorted(self.settings.items()))]
        return "\n".join(lines) + "\n"

    def _figures(self) -> list[str]:
        ratio = self.faulty_throughput / self.calm_throughput if self.calm_throughput else 0.0
        return [
            f"took {self.took_seconds:.0f} s, of them {self.seconds:.0f} s with faults; at rest {self.drain_seconds:.1f} s later",
            f"{self.orders:,} orders, {self.trades:,} trades, {self.asked_again:,} requests asked again, twice",
            f"throughput {self.faulty_throughput:.1f} orders/s during faults, {self.calm_throughput:.1f} without:"
            f" {ratio:.2f}; {self.paced_throughput:.1f} in the paced part",
        ]

    def document(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "seed": self.seed,
            "seconds": self.seconds,
            "took_seconds": round(self.took_seconds, 1),
            "orders": self.orders,
            "trades": self.trades,
            "asked_again": self.asked_again,
            "effective_faults": len(self.effective),
            "kinds": dict(sorted(self.kinds.items())),
            "throughput": {
                "calm": round(self.calm_throughput, 2),
                "during_faults": round(self.faulty_throughput, 2),
                "paced": round(self.paced_throughput, 2),
            },
            "drain_seconds": round(self.drain_seconds, 1),
            "recovery": [
                {
                    "name": each.name,
                    "goal": each.goal,
                    "samples": each.samples,
                    "median": each.median if each.samples else None,
                    "longest": each.longest if each.samples else None,
                }
                for each in self.recovery
            ],
            "violations": [asdict(each) for each in self.violations.found],
            "violation_counts": dict(self.violations.counts),
            "invariants": self.invariants,
            "requests": self.requests,
            "faults": [asdict(fault) for fault in self.faults],
            "settings": self.settings,
        }

    def write(self, directory: Path) -> Path:
        """Both files; the one for people."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / JSON_FILE).write_text(json.dumps(self.document(), indent=1) + "\n", encoding="utf-8")
        file = directory / TEXT_FILE
        file.write_text(self.text(), encoding="utf-8")
        return file


def _counts(counts: dict[str, int]) -> str:
    return "  ".join(f"{counts.get(outcome, 0):>7,} {outcome}" for outcome in ("ok", "refused", "unknown"))
