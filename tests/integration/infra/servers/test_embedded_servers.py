"""The embedded servers through starts, stops, kills, and a parent that dies."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pymongo
import pytest
import redis

from infra.runtime.data_directory import DataDirectory
from infra.runtime.failures import CannotStart
from infra.runtime.identity import identity, is_same
from infra.runtime.process import Account
from infra.servers import DATABASE_VARIABLES, DATABASES, EmbeddedServers, PostgresServer
from infra.servers.ports import LOOPBACK, free_port, is_free
from infra.servers.unprivileged import require_reach

ORDERS = "BROKAGE_ORDERS_DATABASE_URL"


class Everywhere:
    """One mark, put into each of the three servers."""

    def __init__(self, environment: dict[str, str], mark: str | None = None) -> None:
        self.mark = mark or secrets.token_hex(6)
        self._environment = environment

    def write(self) -> None:
        with psycopg.connect(self._environment[ORDERS]) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS marks (mark text)")
            connection.execute("INSERT INTO marks VALUES (%s)", [self.mark])
        with redis.Redis.from_url(self._environment["BROKAGE_REDIS_URL"]) as valkey:
            valkey.set(self.mark, "1")
        with pymongo.MongoClient[Any](self._environment["BROKAGE_MONGO_URL"]) as mongo:
            mongo["tests"]["marks"].insert_one({"_id": self.mark})

    def found(self) -> list[bool]:
        """Whether Postgres, Valkey and Mongo have it."""
        with psycopg.connect(self._environment[ORDERS]) as connection:
            there = connection.execute("SELECT to_regclass('marks') IS NOT NULL").fetchone() == (True,)
            rows = connection.execute("SELECT 1 FROM marks WHERE mark = %s", [self.mark]).fetchall() if there else []
        with redis.Redis.from_url(self._environment["BROKAGE_REDIS_URL"]) as valkey:
            keys = valkey.exists(self.mark)
        with pymongo.MongoClient[Any](self._environment["BROKAGE_MONGO_URL"]) as mongo:
            documents = mongo["tests"]["marks"].count_documents({"_id": self.mark})
        return [bool(rows), bool(keys), bool(documents)]


def postgres_of(servers: EmbeddedServers) -> PostgresServer:
    assert servers.postgres is not None
    return servers.postgres


class TestStart:
    def test_every_setting_is_there_and_every_server_answers(self, embedded: EmbeddedServers) -> None:
        addresses = {*DATABASE_VARIABLES, "BROKAGE_REDIS_URL", "BROKAGE_BROKER_URL", "BROKAGE_MONGO_URL"}
        assert set(embedded.environment) == addresses | {"BROKAGE_KEY_DIR", "BROKAGE_DATA_DIR"}
        assert [process.name for process in embedded.processes] == ["postgres", "valkey", "mongo"]
        mark = Everywhere(embedded.environment)
        mark.write()
        assert mark.found() == [True, True, True]

    def test_a_directory_in_use_is_refused(self, embedded: EmbeddedServers) -> None:
        with pytest.raises(CannotStart, match="in use by another run"):
            EmbeddedServers(embedded.data.path, environ={}).start()

    def test_two_directories_run_side_by_side(self, embedded: EmbeddedServers, place: Path) -> None:
        mark = Everywhere(embedded.environment)
        mark.write()
        with EmbeddedServers(place / "second", environ={}) as second:
            ports = {server.port for server in [*embedded.all, *second.all]}
            assert len(ports) == 6
            assert Everywhere(second.environment, mark.mark).found() == [False, False, False]
        assert mark.found() == [True, True, True]

    def test_given_urls_replace_the_servers(self, place: Path) -> None:
        given = dict.fromkeys(DATABASE_VARIABLES, "postgresql://there/db")
        given |= {"BROKAGE_REDIS_URL": "redis://there/0", "BROKAGE_MONGO_URL": "mongodb://there"}
        with EmbeddedServers(place / "given", environ=given) as servers:
            assert servers.processes == []
            assert {name: servers.environment[name] for name in given} == given
            assert servers.environment["BROKAGE_BROKER_URL"] == "redis://there/0"

    def test_one_given_database_leaves_the_others_embedded(self, embedded: EmbeddedServers) -> None:
        elsewhere = {ORDERS: "postgresql://there/orders", "BROKAGE_BROKER_URL": "redis://queue/1"}
        servers = EmbeddedServers(embedded.data, environ=elsewhere)
        servers.postgres, servers.valkey = embedded.postgres, embedded.valkey
        environment = servers._environment()
        assert environment[ORDERS] == "postgresql://there/orders"
        assert environment["BROKAGE_BROKER_URL"] == "redis://queue/1"
        for name in {*DATABASE_VARIABLES, "BROKAGE_REDIS_URL"} - {ORDERS}:
            assert environment[name] == embedded.environment[name]

    def test_the_data_directory_is_the_one_in_use_whatever_the_environment_says(self, place: Path) -> None:
        given = dict.fromkeys([*DATABASE_VARIABLES, "BROKAGE_REDIS_URL", "BROKAGE_MONGO_URL"], "elsewhere://")
        with EmbeddedServers(place / "named", environ=given | {"BROKAGE_DATA_DIR": "/another"}) as servers:
            assert servers.environment["BROKAGE_DATA_DIR"] == str(place / "named")


class TestStartAgain:
    @pytest.fixture
    def stopped(self, embedded: EmbeddedServers) -> EmbeddedServers:
        embedded.stop()
        return embedded

    def test_quick_with_the_same_addresses_and_data(self, embedded: EmbeddedServers) -> None:
        before, mark = dict(embedded.environment), Everywhere(embedded.environment)
        mark.write()
        embedded.stop()
        started = time.monotonic()
        embedded.start()
        assert time.monotonic() - started < 2.0
        assert embedded.environment == before
        assert mark.found() == [True, True, True]

    def test_a_port_taken_meanwhile_costs_only_the_port(self, stopped: EmbeddedServers) -> None:
        assert stopped.valkey is not None
        taken = stopped.valkey.port
        with socket.create_server((LOOPBACK, taken)):
            stopped.start()
            assert stopped.valkey.port != taken
            with redis.Redis.from_url(stopped.environment["BROKAGE_REDIS_URL"]) as valkey:
                assert valkey.ping()

    def test_nothing_runs_after_a_stop(self, stopped: EmbeddedServers) -> None:
        assert all(identity(process.pid) is None for process in stopped.processes if process.pid)
        assert all(is_free(server.port) for server in stopped.all)


class TestKilled:
    @pytest.mark.parametrize("name", ["postgres", "valkey", "mongo"])
    def test_what_was_acknowledged_is_there_after_kill_9(self, embedded: EmbeddedServers, name: str) -> None:
        server = next(server for server in embedded.all if server.name == name)
        for _ in range(3):
            mark, port, pid = Everywhere(embedded.environment), server.port, server.pid
            mark.write()
            server.kill()
            assert not server.process.alive
            server.restart()
            assert (server.port, server.pid != pid) == (port, True)
            assert mark.found() == [True, True, True]

    def test_what_was_not_committed_is_gone(self, embedded: EmbeddedServers) -> None:
        postgres = postgres_of(embedded)
        with psycopg.connect(postgres.url("processor"), autocommit=True) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS half (n int)")
        open_one = psycopg.connect(postgres.url("processor"))
        open_one.execute("INSERT INTO half VALUES (1)")
        postgres.kill()
        open_one.close()
        postgres.restart()
        with psycopg.connect(postgres.url("processor")) as connection:
            assert connection.execute("SELECT count(*) FROM half").fetchone() == (0,)

    def test_a_busy_backend_of_the_killed_postmaster_does_not_hold_up_the_next(self, embedded: EmbeddedServers) -> None:
        postgres = postgres_of(embedded)
        busy = psycopg.connect(postgres.url("processor"), autocommit=True)
        pid = busy.info.backend_pid
        ended = threading.Event()

        def work() -> None:
            with pytest.raises(psycopg.OperationalError):
                # All of it in memory: one that writes temporary files takes its time to die, too.
                busy.execute("SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b")
            ended.set()

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.2)
        postgres.kill()
        assert identity(pid) is not None
        started = time.monotonic()
        postgres.restart()
        assert time.monotonic() - started < 5.0
        assert identity(pid) is None
        assert ended.wait(5)
        thread.join()

    def test_clients_do_not_hold_up_a_stop(self, embedded: EmbeddedServers) -> None:
        postgres = postgres_of(embedded)
        client = psycopg.connect(postgres.url("processor"))
        client.execute("SELECT 1")
        started = time.monotonic()
        postgres.stop()
        assert time.monotonic() - started < 5.0
        assert postgres.process.returncode == 0
        client.close()

    def test_servers_end_with_a_parent_that_was_killed(self, place: Path) -> None:
        directory = place / "orphaned"
        program = (
            "import sys, time\n"
            "from pathlib import Path\n"
            "from infra.servers import EmbeddedServers\n"
            "servers = EmbeddedServers(Path(sys.argv[1]), environ={})\n"
            "servers.start()\n"
            "print(*(process.pid for process in servers.processes), flush=True)\n"
            "time.sleep(600)\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout is not None
            known = {int(pid): identity(int(pid)) for pid in run.stdout.readline().split()}
            assert len(known) == 3
            os.kill(run.pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while any(mine is not None and is_same(pid, mine) for pid, mine in known.items()):
            assert time.monotonic() < deadline, "a server outlived its parent"
            time.sleep(0.02)
        with EmbeddedServers(directory, environ={}) as servers:
            mark = Everywhere(servers.environment)
            mark.write()
            assert mark.found() == [True, True, True]


class TestPostgres:
    @pytest.mark.parametrize("role", DATABASES)
    def test_a_role_has_its_own_database_and_no_other(self, embedded: EmbeddedServers, role: str) -> None:
        postgres = postgres_of(embedded)
        with psycopg.connect(postgres.url(role), autocommit=True) as connection:
            connection.execute("CREATE TABLE mine (n int)")
            connection.execute("DROP TABLE mine")
            rights = "SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication FROM pg_roles WHERE rolname = current_user"
            assert connection.execute(rights).fetchone() == (False,)
        others = {database for database, _, _ in DATABASES.values()} - {DATABASES[role][0]}
        for database in (*sorted(others), "postgres", "template1"):
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                psycopg.connect(postgres.url_of(role, database))

    @pytest.mark.parametrize("user", ["postgres", "order_service"])
    @pytest.mark.parametrize("way", ["tcp", "socket"])
    def test_nobody_enters_without_the_password(self, embedded: EmbeddedServers, user: str, way: str) -> None:
        postgres = postgres_of(embedded)
        host = LOOPBACK if way == "tcp" else str(postgres.socket_directory)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(host=host, port=postgres.port, user=user, password="guess", dbname="brokage_orders")

    def test_a_commit_is_on_the_disk(self, embedded: EmbeddedServers) -> None:
        with postgres_of(embedded).connect() as connection:
            for name in ("fsync", "synchronous_commit", "full_page_writes", "data_checksums"):
                assert connection.execute(f"SHOW {name}").fetchone() == ("on",), name

    def test_psql_takes_the_url(self, embedded: EmbeddedServers) -> None:
        postgres = postgres_of(embedded)
        command = [str(postgres.program("psql")), postgres.url("asset_service"), "-AXtc", "SELECT current_user"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "asset_service"

    def test_a_path_too_long_for_a_socket_has_it_elsewhere(self, place: Path) -> None:
        data = DataDirectory(place / ("long" * 30))
        assert len(os.fsencode(PostgresServer(data).socket_directory)) < 90


class TestValkey:
    def test_keeps_everything_and_drops_nothing(self, embedded: EmbeddedServers) -> None:
        with redis.Redis.from_url(embedded.environment["BROKAGE_REDIS_URL"], decode_responses=True) as valkey:
            settings: Any = valkey.config_get("append*")
            assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")
            policy: Any = valkey.config_get("maxmemory-policy")
            assert policy == {"maxmemory-policy": "noeviction"}


class TestPorts:
    def test_the_preferred_one_if_it_is_free(self) -> None:
        port = free_port()
        assert free_port(port) == port
        with socket.create_server((LOOPBACK, port)):
            assert free_port(port) != port


class TestReach:
    """As root, Postgres runs as an account that must be able to enter; this needs no root to be told."""

    STRANGER = Account("stranger", os.geteuid() + 4321, os.getegid() + 4321)

    def test_a_closed_directory_is_named_with_the_way_to_open_it(self, place: Path) -> None:
        closed = place / "closed"
        (closed / "inner").mkdir(parents=True)
        closed.chmod(0o700)
        with pytest.raises(CannotStart) as refused:
            require_reach(self.STRANGER, closed / "inner")
        assert "\n" not in str(refused.value)
        assert f"chmod o+x {closed}`" in str(refused.value)
        closed.chmod(0o711)
        require_reach(self.STRANGER, closed / "inner")

    def test_who_runs_it_as_himself_needs_no_way_in(self, place: Path) -> None:
        require_reach(None, place)
