"""The commands as a person runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

from reconcile_world import World

BREAK = "UPDATE assets SET size = size + 1, usable_size = usable_size + 1 WHERE id = (SELECT min(id) FROM assets)"
MEND = "UPDATE assets SET size = size - 1, usable_size = usable_size - 1 WHERE id = (SELECT min(id) FROM assets)"


def run(environment: dict[str, str], *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BROKAGE_")}
    impatient = {"BROKAGE_RECONCILE_GRACE_SECONDS": "0.2", "BROKAGE_RECONCILE_DELIVERY_SECONDS": "0"}
    return subprocess.run(
        [sys.executable, "-m", "infra", *arguments],
        env=clean | impatient | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestReconcile:
    def test_a_clean_system_is_a_line_for_each_invariant_and_exit_0(self, world: World) -> None:
        done = run(world.environment, "reconcile")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert [line.split()[:2] for line in lines] == [[str(number), "ok"] for number in range(1, 10)]
        assert all(" rows  " in line for line in lines)

    def test_a_broken_one_names_the_row_and_exits_1(self, world: World) -> None:
        with world.broken("asset_service", [BREAK], [MEND]):
            done = run(world.environment, "reconcile")
        assert done.returncode == 1
        lines = done.stdout.splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith(" 3  BROKEN"))
        assert lines[at + 1].startswith("      account customer:")
        assert sum("BROKEN" in line for line in lines) == 1

    def test_json_is_one_document(self, world: World) -> None:
        with world.broken("asset_service", [BREAK], [MEND]):
            done = run(world.environment, "reconcile", "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["valid"]) == (1, False)
        broken = [each for each in found["invariants"] if not each["valid"]]
        assert [(each["number"], each["broken"], len(each["findings"])) for each in broken] == [(3, 1, 1)]
        assert all(each["rows"] > 0 for each in found["invariants"])

    def test_no_system_is_one_line_and_exit_2(self, tmp_path: Path) -> None:
        for arguments in (("reconcile",), ("reconcile", "--json"), ("ledger", "verify"), ("republish",)):
            done = run({}, *arguments, cwd=tmp_path)
            assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)

    def test_a_database_that_does_not_answer_is_no_system(self, world: World) -> None:
        nowhere = {"BROKAGE_ASSETS_DATABASE_URL": "postgresql://nobody:nothing@127.0.0.1:1/nothing"}
        done = run(world.environment | nowhere, "reconcile")
        assert (done.returncode, done.stderr) == (2, "brokage: the database of asset_service does not answer\n")


class TestLedgerVerify:
    def test_the_ledger_as_it_was_written_is_valid(self, world: World) -> None:
        done = run(world.environment, "ledger", "verify")
        assert done.returncode == 0
        assert done.stdout.startswith("the ledger is valid: ")

    def test_the_first_thing_wrong_is_named_and_exit_is_1(self, world: World) -> None:
        with world.broken("asset_service", [BREAK], [MEND]):
            done = run(world.environment, "ledger", "verify", "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["valid"]) == (1, False)
        assert found["first_bad"]["subject"].startswith("customer:")


class TestRepublish:
    def test_a_reader_that_forgot_its_customers_and_instruments_knows_them_again(self, world: World) -> None:
        before = world.one("processor", "SELECT count(*) FROM principals")
        world.sql("processor", "DELETE FROM principals", "DELETE FROM instruments")
        done = run(world.environment, "republish")
        assert done.returncode == 0
        assert done.stdout == f"said again: {before} customers, 2 instruments\n"
        world.pump.drain()
        assert world.one("processor", "SELECT count(*) FROM principals") == before
        assert world.one("processor", "SELECT count(*) FROM instruments") == 2
        assert not any(examined.broken for examined in world.reconcile().values())
