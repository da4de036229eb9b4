"""What the services' Alembic environments and migrations share.

A service's `migrations/env.py` is three lines that call `run()`; the helpers below are called from its versions.
"""

import os

import sqlalchemy as sa
from alembic import context, op

from shared.db import tables


def run(metadata: sa.MetaData, url_variable: str) -> None:
    """Migrate the database whose URL is in the environment variable `url_variable`, or given by `-x url=`."""
    url = context.get_x_argument(as_dictionary=True).get("url") or os.environ[url_variable]
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
        with context.begin_transaction():
            # Two migrating processes take turns; the second finds nothing left to do.
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7461)"))
            context.run_migrations()
    engine.dispose()


def sqlalchemy_url(url: str) -> str:
    scheme, rest = url.split("://", 1)
    return f"postgresql+psycopg://{rest}" if scheme in ("postgresql", "postgres") else url


def create_clock() -> None:
    """`brokage_now()`: the only clock of business statements, `now()` moved by a row that only tests write."""
    tables.clock_offset(sa.MetaData()).create(op.get_bind())
    op.execute("INSERT INTO clock_offset DEFAULT VALUES")
    op.execute(
        "CREATE FUNCTION brokage_now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE "
        "AS 'SELECT now() + (SELECT value FROM clock_offset)'"
    )


def create_common_tables(metadata: sa.MetaData) -> None:
    """The clock, and the tables every service has. Call first."""
    create_clock()
    for name in ("outbox_events", "processed_events", "dead_letters", "idempotency_records", "principals"):
        metadata.tables[name].create(op.get_bind())


def create_tables(metadata: sa.MetaData, *names: str) -> None:
    """A first migration's way to create the service's own tables; later migrations spell their changes out."""
    for name in names:
        metadata.tables[name].create(op.get_bind())


def append_only(table: str) -> None:
    """Refuse UPDATE, DELETE and TRUNCATE on `table` by trigger, whoever asks."""
    op.execute(
        "CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
