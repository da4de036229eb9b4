"""What the migrations make is what the models declare, down to checks, indexes and storage; what must not change refuses it."""

import importlib
import importlib.resources
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import errors, sql

from shared.db.migrations import sqlalchemy_url

SERVICES = ("asset_service", "customer_service", "order_service", "processor")
APPEND_ONLY = [
    ("asset_service", "ledger_transactions"),
    ("asset_service", "ledger_entries"),
    ("order_service", "order_history"),
]
CATALOG = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
               pg_get_expr(d.adbin, d.adrelid)
          FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
          LEFT JOIN pg_attrdef AS d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
         WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
           AND c.relnamespace = 'public'::regnamespace""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace""",
    "indexes": "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "storage": """
        SELECT relname, (SELECT array_agg(option ORDER BY option) FROM unnest(reloptions) AS option) FROM pg_class
         WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace""",
    "sequences": "SELECT sequencename, data_type::text, increment_by, start_value FROM pg_sequences WHERE schemaname = 'public'",
}


@pytest.fixture(scope="module", params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def migrated(service: str, fresh_database: Callable[[str], str]) -> str:
    """The URL of a database that the migrations made, from empty."""
    return fresh_database(service)


@pytest.fixture(scope="module")
def declared(service: str, servers: Any) -> Iterator[str]:
    """The URL of a database with nothing but what the models declare, and the function their defaults call."""
    name = f"{service}_declared"
    with servers.postgres.connect() as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(service)))
    url = servers.postgres.url_of(service, name)
    engine = sa.create_engine(sqlalchemy_url(url), poolclass=sa.pool.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE FUNCTION brokage_now() RETURNS timestamptz LANGUAGE sql AS 'SELECT now()'")
        models(service).create_all(connection)
    engine.dispose()
    yield url


def models(service: str) -> sa.MetaData:
    metadata = importlib.import_module(f"{service}.models").metadata
    assert isinstance(metadata, sa.MetaData)
    return metadata


def catalog(url: str, kind: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute(CATALOG[kind]).fetchall()
    return {str(row) for row in rows if "alembic_version" not in str(row)}


class TestModelsAndMigrations:
    def test_alembic_finds_nothing_to_do(self, service: str, migrated: str) -> None:
        engine = sa.create_engine(sqlalchemy_url(migrated), poolclass=sa.pool.NullPool)
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, models(service)) == []
        engine.dispose()

    @pytest.mark.parametrize("kind", CATALOG)
    def test_agree_in_every_detail_of_the_catalog(self, migrated: str, declared: str, kind: str) -> None:
        """Alembic does not compare checks, storage and sequences."""
        assert catalog(migrated, kind) == catalog(declared, kind)

    def test_migrations_do_not_ask_the_models(self, service: str) -> None:
        """A migration that creates what the models say today is another one tomorrow."""
        versions = importlib.resources.files(service) / "migrations" / "versions"
        for version in versions.iterdir():
            if version.name.endswith(".py"):
                assert "models" not in version.read_text(), version

    def test_the_clock_follows_its_offset(self, migrated: str) -> None:
        with psycopg.connect(migrated) as connection:
            connection.execute("UPDATE clock_offset SET value = '1 day'")
            row = connection.execute("SELECT brokage_now() - now() = '1 day'").fetchone()
            assert row == (True,)
            connection.rollback()


class TestAppendOnlyTables:
    @pytest.mark.parametrize(("owner", "table"), APPEND_ONLY)
    @pytest.mark.parametrize("statement", ["UPDATE {} SET {} = {}", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
    @pytest.mark.parametrize("role", ["owner", "superuser"])
    def test_refuse_every_change_whoever_asks(
        self, servers: Any, fresh_database: Callable[[str], str], owner: str, table: str, statement: str, role: str
    ) -> None:
        name = fresh_database(owner).rsplit("/", 1)[1].partition("?")[0]
        column = sql.Identifier(str(next(iter(models(owner).tables[table].columns)).name))
        query = sql.SQL(statement).format(sql.Identifier(table), column, column)
        url = servers.postgres.url_of(owner if role == "owner" else "postgres", name)
        with psycopg.connect(url) as connection, pytest.raises(errors.InsufficientPrivilege, match="append-only"):
            connection.execute(query)
