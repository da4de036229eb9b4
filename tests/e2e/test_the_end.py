"""After everything the other files did to the system (this one is last by its name): all of it adds up."""

import json
import time

import psutil
import psycopg

from infra.runtime.running import find_system
from tests.e2e.system import System


class TestEverythingAddsUp:
    def test_the_audit_trail_is_valid(self, system: System) -> None:
        found = system.auditor.get("/api/audit/verify")
        assert (found["valid"], found["first_bad"]) == (True, None)
        done = system.command("audit", "verify")
        assert done.returncode == 0, done.stdout + done.stderr

    def test_the_ledger_is_valid(self, system: System) -> None:
        found = system.auditor.get("/api/ledger/verify")
        assert (found["valid"], found["first_bad"]) == (True, None)

    def test_reconcile_finds_every_invariant_holding(self, system: System) -> None:
        done = system.command("reconcile", "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["valid"]

    def test_nothing_waits_with_a_person(self, system: System) -> None:
        assert system.admin.all("/api/sagas", state="NEEDS_HUMAN") == []
        for database in ("orders", "assets", "customers", "processor"):
            with psycopg.connect(system.urls[database]) as connection:
                assert connection.execute("SELECT consumer, event_type, reason FROM dead_letters").fetchall() == []

    def test_ctrl_c_ends_all_of_it(self, system: System) -> None:
        """Here and not only in the fixture, so that it does not run beside the tests of the other directories."""
        pids = [each["pid"] for each in find_system(system.data_dir).processes]
        started = time.monotonic()
        assert system.end() == 0
        assert time.monotonic() - started < 20
        assert not any(psutil.pid_exists(pid) for pid in pids)
