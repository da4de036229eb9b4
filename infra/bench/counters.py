"""What an order cost, counted and not timed: transactions, log, messages, updates in place. No noise of a machine touches them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from infra.bench.system import BenchSystem
from infra.servers.postgres import DATABASES

FLUSH_SECONDS = 10.5
"""An idle backend of Postgres hands its statistics over after ten seconds."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Totals since the servers began. `commits`, `hot` and `updates` by service; `messages`: deliveries put into the broker."""

    commits: dict[str, int]
    rollbacks: int
    wal_bytes: int
    wal_page_images: int
    messages: int
    asset_updates: int
    asset_hot_updates: int


def count(system: BenchSystem) -> Counts:
    """The exact totals. Takes ten seconds in which nothing else runs, so that reading adds nothing and misses nothing."""
    with system.held():
        time.sleep(FLUSH_SECONDS)
        return _read(system)


def buffers(system: BenchSystem) -> dict[str, int]:
    """Pages touched so far in each service's database. Takes as long as `count`."""
    names = {database: service for service, (database, _, _) in DATABASES.items()}
    with system.held():
        time.sleep(FLUSH_SECONDS)
        with system.connect() as connection:
            rows = connection.execute("SELECT datname, blks_hit + blks_read FROM pg_stat_database").fetchall()
    return {names[database]: touched for database, touched in rows if database in names}


def _read(system: BenchSystem) -> Counts:
    names = {database: service for service, (database, _, _) in DATABASES.items()}
    with system.connect() as connection:
        rows = connection.execute("SELECT datname, xact_commit, xact_rollback FROM pg_stat_database").fetchall()
        (lsn,) = _one(connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone())
        (images,) = _one(connection.execute("SELECT wal_fpi FROM pg_stat_wal").fetchone())
    ours = [row for row in rows if row[0] in names]
    with system.connect(DATABASES["asset_service"][0]) as connection:
        updates, hot = _one(
            connection.execute(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'assets'"
            ).fetchone()
        )
    return Counts(
        commits={names[row[0]]: row[1] for row in ours},
        rollbacks=sum(row[2] for row in ours),
        wal_bytes=int(lsn),
        wal_page_images=images,
        messages=sum(_messages(system, database) for database in names),
        asset_updates=updates,
        asset_hot_updates=hot,
    )


def _one(row: tuple[object, ...] | None) -> tuple[int, ...]:
    assert row
    return row  # type: ignore[return-value]


def _messages(system: BenchSystem, database: str) -> int:
    """Deliveries a relay published. A claim publishes one for each lane, and its batches carry the claim's moment; each repeat
    of a batch is one more."""
    with system.connect(database) as connection:
        (number,) = _one(
            connection.execute(
                "SELECT count(DISTINCT (destination, lane, published_at)) + coalesce(sum(greatest(retry_count - 1, 0)), 0)"
                " FROM outbox_events WHERE published_at IS NOT NULL"
            ).fetchone()
        )
    return number


def per_order(before: Counts, after: Counts, orders: int) -> dict[str, object]:
    """What each of `orders` cost between two counts."""
    commits = {
        service: (after.commits[service] - before.commits[service]) / orders for service in sorted(before.commits)
    }
    updates = after.asset_updates - before.asset_updates
    hot = after.asset_hot_updates - before.asset_hot_updates
    return {
        "orders": orders,
        "commits_per_order": round(sum(commits.values()), 4),
        "commits_per_order_by_service": {service: round(number, 4) for service, number in commits.items()},
        "rollbacks": after.rollbacks - before.rollbacks,
        "wal_bytes_per_order": round((after.wal_bytes - before.wal_bytes) / orders),
        "wal_page_images": after.wal_page_images - before.wal_page_images,
        "messages_per_order": round((after.messages - before.messages) / orders, 4),
        "asset_hot_share": round(hot / updates, 4) if updates else 1.0,
    }
