"""The statements of the archive. Nothing here commits.

A month of the archive is a partition of `archived_orders` and one of `archived_order_history`, named by the month in UTC in
which the orders were archived: `archived_orders_2026_11`.
"""

from collections.abc import Iterable, Sequence

from psycopg import sql

from order_service.repository import ORDER_COLUMNS, Row, rows_as_json
from order_service.states import OrderStatus
from shared.db import Connection

_TABLES = ("archived_orders", "archived_order_history")
_DELETE_SECONDS = 600


def lock_due_orders(
    connection: Connection, *, final_statuses: Iterable[OrderStatus], seconds: float, limit: int
) -> list[Row]:
    """Orders that have ended in one of these states for `seconds`, at most `limit`, locked. Those that somebody else has locked
    are left to him."""
    parameters = {"final_statuses": [status.value for status in final_statuses], "seconds": seconds, "limit": limit}
    return connection.execute(_LOCK_DUE_ORDERS, parameters).fetchall()


def archive_orders(connection: Connection, rows: Sequence[Row]) -> int:
    """Move orders and their histories to the archive, each with one more step; how many were moved.

    Args:
        rows: `id`, `read_version`, `event_id` and `actor_role` of the step that archives it. The orders are locked.
    """
    connection.execute("SELECT set_config('brokage.archiving', 'on', true)")
    row = connection.execute(_ARCHIVE_ORDERS, {"rows": rows_as_json(rows)}).fetchone()
    # What else this transaction does has no business in the history.
    connection.execute("SELECT set_config('brokage.archiving', 'off', true)")
    assert row is not None
    moved: int = row["moved"]
    return moved


def find_missing_months(connection: Connection) -> list[Row]:
    """Which of this month and the next have no partition: `name`, and the times from `since` to before `until`."""
    return connection.execute(_FIND_MISSING_MONTHS).fetchall()


def make_months(connection: Connection) -> None:
    """Make the partitions that are missing. Those who make them at the same time wait for each other."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('archive months', 0))")
    for month in find_missing_months(connection):
        for table in _TABLES:
            _make_partition(connection, table, month)


def _make_partition(connection: Connection, table: str, month: Row) -> None:
    """Made beside its table and then attached: that locks out no reader, however long he reads."""
    partition = f"{table}_{month['name']}"
    names = {"partition": sql.Identifier(partition), "table": sql.Identifier(table)}
    for statement in (_MAKE_PARTITION, _MAKE_APPEND_ONLY):
        trigger = sql.Identifier(f"{partition}_append_only")
        connection.execute(sql.SQL(statement).format(**names, trigger=trigger))
    since, until = sql.Literal(month["since"]), sql.Literal(month["until"])
    connection.execute(sql.SQL(_ATTACH_PARTITION).format(**names, since=since, until=until))


def find_old_months(connection: Connection, kept_months: int) -> list[str]:
    """Names of the months of the archive since whose end `kept_months` whole months have passed, the oldest first."""
    rows = connection.execute(_FIND_OLD_MONTHS, {"kept_months": kept_months}).fetchall()
    return [row["name"] for row in rows]


def delete_month(connection: Connection, name: str) -> int:
    """Delete a month of the archive but for the ids of its orders; how many they were."""
    connection.execute("SELECT set_config('statement_timeout', %s, true)", [f"{_DELETE_SECONDS}s"])
    partitions = [sql.Identifier(f"{table}_{name}") for table in _TABLES]
    deleted = connection.execute(sql.SQL(_REMEMBER_DELETED).format(partition=partitions[0])).rowcount
    for partition in partitions:
        connection.execute(sql.SQL(_DROP_PARTITION).format(partition=partition))
    return deleted


_LOCK_DUE_ORDERS = f"""
SELECT {ORDER_COLUMNS} FROM orders
WHERE final_status = ANY(%(final_statuses)s::text[])
  AND closed_at < (SELECT brokage_now()) - make_interval(secs => %(seconds)s)
LIMIT %(limit)s FOR UPDATE SKIP LOCKED
"""

# `status`, `version` and `updated_at` are those of the step; all else is moved as it is.
_ARCHIVE_ORDERS = f"""
WITH due AS (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS r (id uuid, read_version int, event_id uuid, actor_role text)
), moved AS (
    DELETE FROM orders AS o USING due WHERE o.id = due.id AND o.version = due.read_version RETURNING o.*
), filed AS (
    INSERT INTO archived_orders ({ORDER_COLUMNS}, archived_at)
    SELECT id, organization_id, client_order_id, customer_id, beneficial_owner_id, placed_by, placed_by_role,
           asset_name, quote_asset, quote_scale, order_side, order_type, time_in_force, size, price,
           filled_size, filled_notional, fee_amount, tier, fee_rate, fee_minimum,
           '{OrderStatus.ARCHIVED}', final_status, rejection_reason, version + 1, created_at, (SELECT brokage_now()),
           expires_at, closed_at, (SELECT brokage_now())
    FROM moved
), steps AS (
    DELETE FROM order_history AS h USING moved WHERE h.order_id = moved.id RETURNING h.*
), filed_steps AS (
    INSERT INTO archived_order_history
        (order_id, seq, status, event_id, actor_id, actor_role, detail, created_at, archived_at)
    SELECT order_id, seq, status, event_id, actor_id, actor_role, detail, created_at, (SELECT brokage_now()) FROM steps
    UNION ALL
    SELECT moved.id, moved.version + 2, '{OrderStatus.ARCHIVED}', due.event_id, NULL, due.actor_role, NULL,
           (SELECT brokage_now()), (SELECT brokage_now())
    FROM moved JOIN due ON due.id = moved.id
)
SELECT count(*) AS moved FROM moved
"""

_FIND_MISSING_MONTHS = """
SELECT to_char(month, 'YYYY_MM') AS name, month AS since, month + interval '1 month' AS until
FROM generate_series(0, 1) AS ahead,
     LATERAL (SELECT date_trunc('month', brokage_now(), 'UTC') + make_interval(months => ahead) AS month) AS months
WHERE to_regclass('archived_orders_' || to_char(month, 'YYYY_MM')) IS NULL
"""

_MAKE_PARTITION = "CREATE TABLE {partition} (LIKE {table} INCLUDING ALL)"

_MAKE_APPEND_ONLY = """
CREATE TRIGGER {trigger} BEFORE UPDATE OR DELETE OR TRUNCATE ON {partition}
FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
"""

_ATTACH_PARTITION = "ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM ({since}) TO ({until})"

_FIND_OLD_MONTHS = """
SELECT right(relname, 7) AS name FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'archived_orders'::regclass
  AND right(relname, 7) < to_char((SELECT brokage_now()) - make_interval(months => %(kept_months)s), 'YYYY_MM')
ORDER BY name
"""

_REMEMBER_DELETED = """
INSERT INTO deleted_orders (order_id, final_status, version, deleted_at)
SELECT id, final_status, version, (SELECT brokage_now()) FROM {partition} ON CONFLICT DO NOTHING
"""

_DROP_PARTITION = "DROP TABLE {partition}"
