"""Servers of these tests' own: they are flushed, killed and restarted."""

import itertools
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from psycopg import sql
from small_service import Source, flush

from infra.runtime.data_directory import DataDirectory
from infra.servers.postgres import PostgresServer
from infra.servers.valkey import ValkeyServer
from shared.db import migrations

TEMPLATE = "small_service"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def directory() -> Iterator[DataDirectory]:
    # Not pytest's own: Postgres, running as somebody else when we are root, must be able to pass.
    path = Path(tempfile.mkdtemp(prefix="brokage-messaging-"))
    path.chmod(0o711)
    data = DataDirectory(path)
    data.open()
    yield data
    data.close()
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(directory: DataDirectory) -> Iterator[PostgresServer]:
    server = PostgresServer(directory)
    server.prepare()
    server.spawn()
    server.wait_ready()
    with server.connect() as connection:
        _create(connection, TEMPLATE)
    engine = sa.create_engine(
        migrations.sqlalchemy_url(server.url_of("postgres", TEMPLATE)), poolclass=sa.pool.NullPool
    )
    with engine.begin() as tables, Operations.context(MigrationContext.configure(tables)):
        migrations.create_common_tables_v1()
        migrations.add_parked_batches_v3()
        tables.exec_driver_sql(
            "CREATE TABLE effects (position bigserial, consumer text, aggregate_id text, version int,"
            " applied_at timestamptz DEFAULT now())"
        )
    yield server
    # Without the checkpoint that it makes else: what is in it is deleted.
    server.process.send(signal.SIGQUIT)
    server.stop()


@pytest.fixture(scope="session")
def valkey_server(directory: DataDirectory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(directory)
    server.prepare()
    server.spawn()
    server.wait_ready()
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: ValkeyServer) -> str:
    """The URL of an empty broker."""
    if not valkey_server.process.alive:
        valkey_server.restart()
    flush(valkey_server.url)
    return valkey_server.url


@pytest.fixture
def source(postgres: PostgresServer) -> Iterator[Source]:
    """A database with the tables every service has, and who writes to its outbox."""
    name = f"{TEMPLATE}_{next(_numbers)}"
    with postgres.connect() as connection:
        _create(connection, name, template=TEMPLATE)
    source = Source(postgres.url_of("postgres", name))
    yield source
    source.close()


def _create(connection: "psycopg.Connection[tuple[object, ...]]", name: str, template: str = "template0") -> None:
    connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
