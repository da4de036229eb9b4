"""A short fault run: its system comes through, and what is then planted in its stores turns the verdict."""

import json
from pathlib import Path

import psycopg

from infra.faults.kinds import KINDS
from infra.faults.run import FaultRun, Plan

# Quick ones of every group; `make faults` and longer runs have them all.
SHORT = {
    "kill worker",
    "kill relay",
    "flush valkey",
    "close valkey connections",
    "duplicate messages",
    "delete messages",
    "forged delivery",
    "forged acknowledgements",
    "drop commit acknowledgements",
    "terminate all connections",
    "reset mongo links",
    "same order ten times at once",
}


class TestFaultRun:
    def test_nothing_is_lost_and_what_is_planted_is_found(self, tmp_path: Path) -> None:
        kinds = tuple(kind for kind in KINDS if kind.name in SHORT)
        assert len(kinds) == len(SHORT)
        plan = Plan(6, 100, 11, tmp_path, customers=4, grace_seconds=1.0, kinds=kinds)
        said: list[str] = []
        with FaultRun(plan, said.append) as run:
            run.drive()
            run.heal()
            run.settle()
            report = run.prove()
            assert report.passed, report.text()
            assert report.orders >= 80
            assert len(report.kinds) >= 3, report.text()
            assert all(each["valid"] and each["rows"] for each in report.invariants)
            self._assert_told(tmp_path, said, len(report.faults))

            order_id = next(iter(run.history.of("place")[0].answers))["id"]
            self._forget(run.system.environment["BROKAGE_ORDERS_DATABASE_URL"], order_id)
            failed = run.prove()
        assert not failed.passed
        assert "25 no acknowledgement lost" in failed.violations.counts
        assert any(rule.startswith("contract") for rule in failed.violations.counts)
        assert failed.verdict().startswith("FAILED")

    def _assert_told(self, directory: Path, said: list[str], faults: int) -> None:
        """A line for each fault; a report for people, one for programs, and the history."""
        assert sum("  fault " in line for line in said) == faults
        document = json.loads((directory / "report.json").read_text())
        assert (document["passed"], document["seed"], len(document["faults"])) == (True, 11, faults)
        assert (directory / "report.txt").read_text().startswith("PASSED: 0 violations")
        sends = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
        assert sum(line.get("kind") == "place" for line in sends) >= document["orders"]

    def _forget(self, url: str, order_id: str) -> None:
        """As if an accepted order had been lost."""
        with psycopg.connect(url) as connection:
            connection.execute("DELETE FROM orders WHERE id = %s", (order_id,))
