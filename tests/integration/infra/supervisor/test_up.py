"""One system through its life: started, its processes killed, ended in order, killed itself, started again."""

import json
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from infra.runtime.identity import identity
from tests.integration.infra.supervisor.conftest import LocalSystem, eventually

ROLES = {"supervisor", "api", "worker", "relay", "postgres", "valkey", "mongo"}
STATES = {"starting", "ready", "restarting", "stopped", "failed"}


def refused(system: LocalSystem, *arguments: str) -> str:
    """The one line with which `up` refuses to start."""
    done = system.run("up", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


class TestNothingRuns:
    def test_commands_that_need_a_system_say_so_in_one_line(self, system: LocalSystem) -> None:
        for command in ("status", "down", "migrate", "logs"):
            done = system.run(command)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1), command
            assert done.stdout == ""

    def test_a_data_directory_that_cannot_be_made(self, system: LocalSystem) -> None:
        (system.directory / "file").touch()
        line = refused(system, "--data-dir", str(system.directory / "file" / "data"))
        assert "is not writable: Not a directory" in line

    def test_a_python_that_is_too_old(self, system: LocalSystem) -> None:
        pretend = "import sys; sys.version_info = (3, 10, 9, 'final', 0); import infra.cli"
        done = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "Python 3.11 or newer is needed" in done.stderr

    def test_an_unknown_service(self, system: LocalSystem) -> None:
        for command in ("serve", "worker", "relay"):
            done = system.run(command, "order_servise")
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)
            assert "there is no service named order_servise" in done.stderr


class TestLife:
    """In the order of the file: each test goes on where the one before stopped."""

    def test_a_port_that_is_taken_is_said_before_anything_is_started(self, system: LocalSystem) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", system.port))
            taken.listen()
            line = refused(system, "--data-dir", str(system.data_dir), "--port", str(system.port))
        assert f"port {system.port}: Address already in use" in line
        assert not (system.data_dir / "postgres").exists()

    def test_start(self, system: LocalSystem) -> None:
        system.up("--demo")
        lines = system.output().splitlines()
        assert lines[-1].startswith(f"ready http://127.0.0.1:{system.port}")
        assert sum(line.startswith("ready") for line in lines) == 1
        for step in ("checks", "servers", "migrations", "seed", "services"):
            assert any(re.fullmatch(rf"{step} +\d+\.\d\d s", line) for line in lines), step
        assert sum("demo-trader1" in line for line in lines) == 1
        with urllib.request.urlopen(f"http://127.0.0.1:{system.port}/health/ready", timeout=5) as answer:
            assert answer.status == 200

    def test_status_has_the_seven_roles_and_all_urls(self, system: LocalSystem) -> None:
        found = system.status()
        assert {process["role"] for process in found["processes"]} == ROLES
        for process in found["processes"]:
            assert {"name", "service", "role", "pid", "state"} == set(process)
            assert process["state"] in STATES
            assert psutil.pid_exists(process["pid"])
        assert set(found["urls"]) == {"api", "redis", "mongo", "orders", "assets", "customers", "processor"}

    def test_files_with_passwords_are_nobody_elses_business(self, system: LocalSystem) -> None:
        for name in ("run.json", "secrets.json", "start.json"):
            assert stat.S_IMODE((system.data_dir / name).stat().st_mode) == 0o600

    def test_the_data_directory_is_in_use(self, system: LocalSystem) -> None:
        line = refused(system, "--data-dir", str(system.data_dir), "--port", "0")
        assert f"is in use by another run (pid {system.pids()['supervisor']})" in line

    def test_migrate_finds_the_running_system(self, system: LocalSystem) -> None:
        done = system.run("migrate", "--data-dir", str(system.data_dir))
        assert (done.returncode, done.stdout) == (0, "nothing to migrate\n")

    def test_logs(self, system: LocalSystem) -> None:
        done = system.run("logs", "api", "--lines", "3")
        assert done.returncode == 0
        assert all(json.loads(line)["service"] == "api" for line in done.stdout.splitlines())

    @pytest.mark.parametrize("role", sorted(ROLES - {"supervisor"}))
    def test_a_killed_process_is_back_within_five_seconds(self, system: LocalSystem, role: str) -> None:
        pid = system.pids()[role]
        psutil.Process(pid).kill()
        killed = time.monotonic()
        said = rf"{role} \(pid {pid}\) ended, killed by SIGKILL; restarted as pid (\d+)"
        eventually(lambda: re.search(said, system.output()))
        assert time.monotonic() - killed < 5.0
        eventually(lambda: {process["state"] for process in system.status()["processes"]} == {"ready"}, 20.0)

    def test_callers_wait_while_the_api_is_restarted(self, system: LocalSystem) -> None:
        process = psutil.Process(system.pids()["api"])
        process.kill()
        eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
        with urllib.request.urlopen(f"http://127.0.0.1:{system.port}/health/live", timeout=20) as answer:
            assert answer.status == 200

    def test_sigint_ends_requests_first_and_servers_last(self, system: LocalSystem) -> None:
        pids = system.pids()
        known = {name: identity(pid) for name, pid in pids.items()}
        gone: dict[str, float] = {}

        def watch() -> None:
            while len(gone) < len(pids):
                for name, pid in pids.items():
                    if name not in gone and identity(pid) != known[name]:
                        gone[name] = time.monotonic()
                time.sleep(0.002)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        started = time.monotonic()
        assert system.end(signal.SIGINT) == 0
        watcher.join(5)
        assert time.monotonic() - started < 20.0
        assert (
            gone["api"] < gone["relay"] < gone["worker"] < min(gone[name] for name in ("postgres", "valkey", "mongo"))
        )
        assert max(gone, key=lambda name: gone[name]) == "supervisor"

    def test_afterwards_no_system_is_running(self, system: LocalSystem) -> None:
        assert system.run("status").returncode == 2

    def test_a_second_start_takes_less_than_five_seconds(self, system: LocalSystem) -> None:
        started = time.monotonic()
        system.up("--demo")
        took = time.monotonic() - started
        assert "\nmigrations" in system.output()
        # Alone on the machine it takes two; the limit holds for a machine that does nothing else.
        assert took < 5.0 * max(1.0, psutil.getloadavg()[0] / (psutil.cpu_count() or 1))

    def test_a_killed_supervisor_takes_its_children_with_it(self, system: LocalSystem) -> None:
        pids = system.pids()
        known = {name: identity(pid) for name, pid in pids.items()}
        system.end(signal.SIGKILL)
        eventually(lambda: all(identity(pid) != known[name] for name, pid in pids.items()), 10.0)
        assert system.run("status").returncode == 2

    def test_and_leaves_nothing_that_blocks_the_next_start(self, system: LocalSystem) -> None:
        schedule = {"BROKAGE_BACKUP_DIR": str(system.directory / "backups"), "BROKAGE_BACKUP_CUT_SECONDS": "1"}
        system.up("--demo", **schedule)
        assert {process["state"] for process in system.status()["processes"]} == {"ready"}

    def test_scheduled_backups_are_made_while_it_runs_and_are_worth_something(self, system: LocalSystem) -> None:
        backups = eventually(lambda: "hourly" in (found := system.status()["backups"]) and found, 60.0)
        assert set(backups) == {"daily", "hourly", "failed"}
        assert backups["failed"] is None
        assert all(backups[each]["pause_milliseconds"] < 2000 for each in ("daily", "hourly"))
        repository = str(system.directory / "backups")
        taken = system.run("restore", repository, "--data-dir", str(system.data_dir))
        assert (taken.returncode, taken.stderr.count("\n")) == (2, 1)
        assert "is in use by another run" in taken.stderr
        done = system.run("restore", repository, "--data-dir", str(system.directory / "restored"))
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(r"^cut +\S+Z, [\d,]+ documents$", done.stdout, re.MULTILINE)
        assert (system.directory / "restored" / "postgres").is_dir()

    def test_nothing_is_to_be_repaired_in_it(self, system: LocalSystem) -> None:
        done = system.run("repair")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[-1] == "everything goes together"

    def test_down_returns_when_all_is_gone(self, system: LocalSystem) -> None:
        pids = system.pids()
        known = {name: identity(pid) for name, pid in pids.items()}
        done = system.run("down")
        assert (done.returncode, done.stdout) == (0, "stopped\n")
        assert all(identity(pid) != known[name] for name, pid in pids.items())

    def test_orphans_of_a_killed_run_are_ended_by_the_next_start(self, system: LocalSystem) -> None:
        """As where the kernel does not end children with their parent: a process of the last run is still there."""
        # As a terminal starts it: a shell starts what it puts into the background deaf to SIGINT.
        orphan = psutil.Popen(["sleep", "600"], preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        recorded = {"worker": {"pid": orphan.pid, "identity": identity(orphan.pid)}}
        Path(system.data_dir / "processes.json").write_text(json.dumps(recorded))
        system.up()
        assert "ended worker, which a killed run had left" in system.output()
        assert orphan.wait(5) == -signal.SIGINT
        assert system.end(signal.SIGTERM) == 0

    def test_a_process_that_cannot_start_ends_the_start_and_is_named(self, system: LocalSystem) -> None:
        done = system.run("up", "--data-dir", str(system.data_dir), "--port", "0", BROKAGE_PROFILE="holiday")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "does not start, exit 1; see " in done.stderr
        assert "ready" not in done.stdout
        assert not [process for process in psutil.process_iter(["cmdline"]) if str(system.data_dir) in _words(process)]


def _words(process: psutil.Process) -> str:
    return " ".join(process.info["cmdline"] or ())
