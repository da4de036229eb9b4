"""Postgres restarted, its connections ended, its tables locked, its writes refused."""

from __future__ import annotations

import os
import random
import signal
import time

import psycopg
from psycopg import errors, sql

from infra.faults.kinds.processes import ended_by
from infra.faults.world import Kind, World, kind
from infra.servers import DATABASES

_HOT_TABLES = {
    "brokage_orders": ("orders", "outbox_events", "processed_events", "order_history"),
    "brokage_assets": ("assets", "asset_reservations", "outbox_events", "ledger_entries"),
    "brokage_processor": ("saga_instances", "matching_queue", "trades", "outbox_events"),
    "brokage_customers": ("customers", "outbox_events"),
}
_OURS = "datname LIKE 'brokage_%%' AND application_name <> 'faults' AND backend_type = 'client backend'"


def _terminate(where: str) -> str:
    return (
        f"SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) AS n FROM pg_stat_activity WHERE {_OURS} AND {where}"
    )


def _terminate_all(world: World, chosen: random.Random) -> str | None:
    with world.postgres() as connection:
        row = connection.execute(_terminate("true").encode(), ()).fetchone()
    return f"{row['n']} connections ended" if row and row["n"] else None


def _terminate_service(world: World, chosen: random.Random) -> str | None:
    role = chosen.choice(list(DATABASES))
    with world.postgres() as connection:
        row = connection.execute(_terminate("usename = %s").encode(), (role,)).fetchone()
    return f"{row['n']} connections of {role} ended" if row and row["n"] else None


def _terminate_busy(world: World, chosen: random.Random) -> str | None:
    """Those in the middle of a transaction, for a while."""
    return _hit_busy(world, "pg_terminate_backend", "transactions ended")


def _cancel_busy(world: World, chosen: random.Random) -> str | None:
    """As a statement's time limit does; not so often that one event could fail three times in a row."""
    return _hit_busy(world, "pg_cancel_backend", "statements canceled", every=0.25)


def _hit_busy(world: World, function: str, what: str, every: float = 0.02) -> str | None:
    statement = (
        f"SELECT count(*) FILTER (WHERE {function}(pid)) AS n FROM pg_stat_activity WHERE {_OURS}"
        " AND (state LIKE 'idle in%%' OR (state = 'active' AND query NOT LIKE 'LISTEN%%'))"
    )
    hit, deadline = 0, time.monotonic() + 2.0
    with world.postgres() as connection:
        while time.monotonic() < deadline:
            row = connection.execute(statement.encode(), ()).fetchone()
            hit += row["n"] if row else 0
            time.sleep(every)
    return f"{hit} {what}" if hit else None


def _crash_backend(world: World, chosen: random.Random) -> str | None:
    """One backend dies by a signal; Postgres then ends all others and recovers."""
    with world.postgres() as connection:
        rows = connection.execute(f"SELECT pid FROM pg_stat_activity WHERE {_OURS}".encode(), ()).fetchall()
        if not rows:
            return None
        os.kill(chosen.choice(rows)["pid"], signal.SIGKILL)
        try:
            for _ in range(50):
                time.sleep(0.1)
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return "all connections ended, it recovered"
    return None


def _lock(world: World, chosen: random.Random) -> str | None:
    database = chosen.choice(list(_HOT_TABLES))
    table, seconds = chosen.choice(_HOT_TABLES[database]), chosen.uniform(2.0, 6.0)
    waiting = 0
    with world.postgres(database) as connection, world.postgres() as watcher, connection.transaction():
        connection.execute("SET LOCAL lock_timeout = '3s'")
        try:
            connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(table)))
        except errors.LockNotAvailable:
            raise psycopg.Rollback from None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not world.ending.is_set():
            row = watcher.execute(
                "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = %s",
                (database,),
            ).fetchone()
            waiting = max(waiting, row["n"] if row else 0)
            time.sleep(0.1)
    return f"{database}.{table}: {waiting} transactions waited" if waiting else None


def _read_only(world: World, chosen: random.Random) -> str | None:
    """As a primary that was demoted: every write is refused."""
    refused = False
    with world.postgres() as connection:
        try:
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            connection.execute("SELECT pg_reload_conf()")
            time.sleep(0.3)
            url = world.system.environment["BROKAGE_ORDERS_DATABASE_URL"]
            with psycopg.connect(url, autocommit=True, connect_timeout=5) as other:
                try:
                    other.execute("CREATE TEMPORARY TABLE refused (id int) ON COMMIT DROP")
                    other.execute("UPDATE orders SET version = version WHERE false")
                except errors.ReadOnlySqlTransaction:
                    refused = True
            world.pause(chosen.uniform(1.0, 3.0))
        finally:
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")
    return "writes were refused" if refused else None


def _no_connections(world: World, chosen: random.Random) -> str | None:
    role = chosen.choice(list(DATABASES))
    variable, refused = DATABASES[role][1], False
    with world.postgres() as connection:
        name = sql.Identifier(role)
        try:
            connection.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 0").format(name))
            connection.execute(_terminate("usename = %s").encode(), (role,))
            try:
                psycopg.connect(world.system.environment[variable], connect_timeout=5).close()
            except psycopg.OperationalError:
                refused = True
            world.pause(chosen.uniform(1.0, 4.0))
        finally:
            connection.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(name))
    return f"{role} could not connect" if refused else None


KINDS: tuple[Kind, ...] = (
    kind("restart postgres at once", "postgres", weight=2)(ended_by("postgres", signal.SIGQUIT)),
    kind("restart postgres in order", "postgres")(ended_by("postgres", signal.SIGINT)),
    kind("crash a postgres backend", "postgres")(_crash_backend),
    kind("terminate all connections", "postgres")(_terminate_all),
    kind("terminate a service's connections", "postgres", weight=2)(_terminate_service),
    kind("terminate transactions", "postgres", weight=2)(_terminate_busy),
    kind("cancel statements", "postgres")(_cancel_busy),
    kind("lock a table", "postgres", weight=2)(_lock),
    kind("postgres read-only", "postgres")(_read_only),
    kind("no connections for a service", "postgres")(_no_connections),
)
