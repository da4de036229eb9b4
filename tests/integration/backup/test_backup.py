"""Backups of a system that goes on, and systems that come back from them."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from backup_world import broken, brought_up, command, settle
from reconcile_world import World

from infra.backup import repository as scheduled
from infra.backup.restore import restore
from infra.backup.take import Source, take_documents, take_full
from infra.backup.verify import check_files
from infra.runtime.data_directory import DataDirectory
from infra.runtime.failures import CannotStart
from shared.messaging.locks import RELAY_LOCK


@contextmanager
def traffic(world: World) -> Iterator[list[str]]:
    """Orders that are placed, moved and matched all the time; yields the ids of those that were acknowledged."""
    customer_id = world.customer(TRY="1000000", AAPL="1000")
    acknowledged: list[str] = []
    stop = threading.Event()

    def trade() -> None:
        while not stop.is_set():
            acknowledged.append(world.order(customer_id, "BUY", "1", "10", moved=False))

    def move() -> None:
        while not stop.is_set():
            world.pump.drain()

    with ThreadPoolExecutor() as threads:
        running = [threads.submit(trade), threads.submit(move)]
        try:
            yield acknowledged
        finally:
            stop.set()
        for each in running:
            each.result()
    world.pump.drain()


@pytest.mark.usefixtures("full")
class TestAMomentBetween:
    def test_a_database_goes_to_any_moment_and_the_documents_catch_up(
        self, world: World, source: Source, repository: Path, target: DataDirectory
    ) -> None:
        customer_id = world.customer(TRY="1000")
        before = world.order(customer_id, "BUY", "1", "10")
        world.cancel(before)
        moment = now(world)
        after = world.order(customer_id, "BUY", "1", "11")
        archive(source)
        restored = restore(scheduled.plan(repository, moment), target)
        assert restored.replayed > 0
        assert restored.reached is not None
        assert restored.reached <= moment
        with brought_up(target.path) as again:
            assert (exists(again, before), exists(again, after)) == (True, False)
            settle(again)
            assert broken(again) == {}
            with again.documents("notifier") as notes:
                assert notes["notifications"].count_documents({"customer_id": customer_id}) > 0

    def test_a_cut_after_the_full_backup_is_exact(
        self, world: World, source: Source, repository: Path, target: DataDirectory
    ) -> None:
        order_id = world.order(world.customer(TRY="1000"), "BUY", "1", "10")
        take_documents(source, repository / scheduled.HOURLY / "third")
        restored = restore(scheduled.plan(repository, None), target)
        assert restored.replayed == 0
        with brought_up(target.path) as again:
            assert exists(again, order_id)
            assert broken(again) == {}

    def test_a_moment_that_no_wal_reaches_is_refused_and_the_directory_is_as_it_was(
        self, world: World, source: Source, repository: Path, target: DataDirectory
    ) -> None:
        (target.path / "postgres").mkdir(parents=True)
        (target.path / "postgres" / "mine").write_text("mine")
        tomorrow = (now(world) + timedelta(days=1)).isoformat()
        done = command("restore", str(repository), "--to", tomorrow, "--data-dir", str(target.path))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "recovery ended before configured recovery target was reached" in done.stderr
        assert (target.path / "postgres" / "mine").read_text() == "mine"
        assert not (target.path / "restoring").exists()


class TestABackupThatDies:
    @pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
    def test_nothing_stays_held(self, world: World, source: Source, end: signal.Signals) -> None:
        arguments = [str(source.data.path), str(source.postgres.port)]
        with subprocess.Popen([sys.executable, "-c", HOLD, *arguments], stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            assert not relays_are_free(world)
            holder.send_signal(end)
            wait_until(lambda: relays_are_free(world))
            customer_id = world.customer(TRY="1000")
            order_id = world.order(customer_id, "BUY", "1", "10")
            holder.kill()
        assert world.one("order_service", f"SELECT status FROM orders WHERE id = '{order_id}'") == "ORDER_CONFIRMED"

    def test_a_directory_without_manifest_is_no_backup(self, place: Path, target: DataDirectory) -> None:
        (place / "half" / "base").mkdir(parents=True)
        with pytest.raises(CannotStart, match="is no backup"):
            restore(scheduled.plan(place / "half", None), target)


HOLD = """
import sys, time
from pathlib import Path
from infra.backup.cut import relays_held
from infra.runtime.data_directory import DataDirectory
from infra.servers import PostgresServer
postgres = PostgresServer(DataDirectory(Path(sys.argv[1])))
postgres.port = int(sys.argv[2])
with relays_held(postgres):
    print("held", flush=True)
    time.sleep(60)
"""


def relays_are_free(world: World) -> bool:
    return all(world.one(service, f"SELECT pg_try_advisory_xact_lock({RELAY_LOCK})") for service in world.databases)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about")


class TestWhatIsRefused:
    def test_a_running_system_and_a_damaged_backup(
        self, source: Source, full: Path, place: Path, target: DataDirectory
    ) -> None:
        directory = shutil.copytree(full, place / "damaged")
        plan = scheduled.plan(directory, None)
        with pytest.raises(CannotStart, match="in use by another run"):
            restore(plan, DataDirectory(source.data.path))
        with pytest.raises(CannotStart, match="is not empty"):
            take_full(source, directory)
        file = directory / "documents" / "indexes.json"
        file.write_text(file.read_text() + " ")
        (directory / "more").touch()
        assert check_files(directory) == ["documents/indexes.json is not what was written", "more was not there"]
        with pytest.raises(CannotStart, match="is damaged"):
            restore(plan, target)
        assert not (target.path / "postgres").exists()


class TestTheCut:
    def test_a_system_under_load_comes_back_as_it_was_at_one_moment(
        self, world: World, source: Source, place: Path, target: DataDirectory
    ) -> None:
        directory = place / "under-load"
        with traffic(world) as acknowledged:
            while len(acknowledged) < 20:
                pass
            before = list(acknowledged)
            made = take_full(source, directory)
            during = len(acknowledged)
        assert during > len(before), "orders were placed while the backup was made"
        assert made.pause_milliseconds < 2000
        assert check_files(directory) == []
        restored = restore(scheduled.plan(directory, None), target)
        assert restored.documents == sum(made.documents.values()) > 0
        with brought_up(target.path) as again:
            assert {order_id for order_id in before if not exists(again, order_id)} == set()
            # What was in flight goes on, and nothing is told twice or never.
            settle(again)
            assert broken(again) == {}


def now(world: World) -> datetime:
    moment: datetime = world.one("order_service", "SELECT clock_timestamp()")
    return moment


def archive(source: Source) -> None:
    """Wait until all WAL so far is in the archive."""
    with source.postgres.connect() as connection:
        connection.execute("SELECT pg_create_restore_point('waited for')")
        [name] = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone() or ()
        wait_until(lambda: has_archived(connection, name))


def has_archived(connection: psycopg.Connection[Any], name: str) -> bool:
    [last] = connection.execute("SELECT last_archived_wal FROM pg_stat_archiver").fetchone() or ()
    return last is not None and bool(last >= name)


def exists(world: World, order_id: str) -> bool:
    return bool(world.one("order_service", f"SELECT count(*) FROM orders WHERE id = '{order_id}'"))
