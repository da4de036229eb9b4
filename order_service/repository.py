"""Every SQL statement of order_service but those of the archiver. Nothing here commits.

Rows travel to the database as one JSON parameter, however many there are: one statement per batch.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from order_service.states import OrderStatus
from shared.db import Conflict, Connection, taken_is_conflict
from shared.idempotency import KEPT_HOURS
from shared.ids import uuid_array

Row = dict[str, Any]

ORDER_COLUMNS = """id, organization_id, client_order_id, customer_id, beneficial_owner_id, placed_by, placed_by_role,
       asset_name, quote_asset, quote_scale, order_side, order_type, time_in_force, size, price,
       filled_size, filled_notional, fee_amount, tier, fee_rate, fee_minimum,
       status, final_status, rejection_reason, version, created_at, updated_at, expires_at, closed_at"""


def find_order(connection: Connection, order_id: str) -> Row | None:
    return find_orders(connection, [order_id]).get(order_id)


CHANGE_COLUMNS = """id, customer_id, asset_name, quote_asset, quote_scale, order_side, size, price, filled_size,
       filled_notional, fee_amount, status, final_status, rejection_reason, version"""
"""What a step of an order reads: half of them, because a batch reads five hundred orders."""


def find_orders(connection: Connection, order_ids: Collection[str], columns: str = ORDER_COLUMNS) -> dict[str, Row]:
    """The orders of these ids, by id; archived ones too."""
    # The archive comes second, or one that is moved in between would be in neither.
    found: dict[str, Row] = {}
    for table in ("orders", "archived_orders"):
        missing = set(order_ids) - found.keys()
        if missing:
            statement = f"SELECT {columns} FROM {table} WHERE id = ANY(%(ids)s::uuid[])"
            rows = connection.execute(statement.encode(), {"ids": uuid_array(missing)})
            found.update((row["id"], row) for row in rows)
    return found


def find_changed_orders(connection: Connection, versions: Mapping[str, int]) -> dict[str, Row]:
    """Of the orders of these ids and versions those that have another version by now, by id."""
    parameters = {"ids": uuid_array(versions), "versions": list(versions.values())}
    changed = [row["id"] for row in connection.execute(_FIND_CHANGED, parameters)]
    return find_orders(connection, changed)


def find_order_by_client_id(
    connection: Connection, *, customer_id: int, placed_by: int, client_order_id: str
) -> Row | None:
    parameters = {"customer_id": customer_id, "placed_by": placed_by, "client_order_id": client_order_id}
    return connection.execute(_FIND_ORDER_BY_CLIENT_ID, parameters).fetchone()


def find_orders_to_cancel(connection: Connection, customer_ids: Iterable[int] | None, limit: int) -> list[Row]:
    """Open orders of deactivated customers whose cancelation nobody has asked for yet, at most `limit`; of everybody,
    or only of `customer_ids`."""
    ids = None if customer_ids is None else sorted(customer_ids)
    return connection.execute(_FIND_ORDERS_TO_CANCEL, {"customer_ids": ids, "limit": limit}).fetchall()


def list_orders(
    connection: Connection,
    *,
    customer_ids: Sequence[int] | None,
    filters: Row,
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Row]:
    """Newest first. One customer's by time of acceptance, along their index; those of several by id, which grows with
    time as well and has an index already.

    Args:
        customer_ids: whose; None for everybody's.
        filters: `status`, `asset_name`, `order_side`, `created_from` (inclusive), `created_to` (exclusive); None each
            when not filtered by.
        after: time and id of the last order seen.
    """
    one = customer_ids is not None and len(customer_ids) == 1
    conditions = [_FILTERS[name] for name, value in filters.items() if value is not None]
    if customer_ids is not None:
        conditions.append("customer_id = %(customer_id)s" if one else "customer_id = ANY(%(customer_ids)s::bigint[])")
    if after is not None:
        conditions.append("(created_at, id) < (%(at)s, %(after)s::uuid)" if one else "id < %(after)s::uuid")
    order = "created_at DESC, id DESC" if one else "id DESC"
    parameters: Row = {**filters, "limit": limit, "customer_ids": customer_ids}
    parameters.update(customer_id=customer_ids[0] if customer_ids else None)
    parameters.update(zip(("at", "after"), after or (None, None), strict=True))
    page = f"WHERE {' AND '.join(conditions) or 'true'} ORDER BY {order} LIMIT %(limit)s"
    sides = [f"(SELECT {ORDER_COLUMNS} FROM {table} {page})" for table in _tables_of(filters["status"])]
    statement = sides[0] if len(sides) == 1 else f"{' UNION ALL '.join(sides)} ORDER BY {order} LIMIT %(limit)s"
    return connection.execute(statement.encode(), parameters).fetchall()


def _tables_of(status: OrderStatus | None) -> Sequence[str]:
    """Where orders of a status are. Both tables have the same indexes, so a page costs a page of each."""
    if status is None:
        return ("orders", "archived_orders")
    return ("archived_orders",) if status is OrderStatus.ARCHIVED else ("orders",)


def list_history(connection: Connection, order_id: str, *, after_seq: int, limit: int) -> list[Row]:
    return connection.execute(_LIST_HISTORY, {"order_id": order_id, "after_seq": after_seq, "limit": limit}).fetchall()


def find_client_ids(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    """Those of the client ids (`customer_id`, `placed_by`, `client_order_id`) that are taken, with `order_id` and
    `request_digest`."""
    return connection.execute(_FIND_CLIENT_IDS, {"rows": rows_as_json(rows)}).fetchall() if rows else []


def find_keys(connection: Connection, rows: Sequence[Row]) -> list[Row]:
    """Those of the idempotency keys (`principal`, `method`, `route`, `key`) that are taken and still kept."""
    if not rows:
        return []
    return connection.execute(_FIND_KEYS, {"rows": rows_as_json(rows), "kept_hours": KEPT_HOURS}).fetchall()


def insert_orders(
    connection: Connection, *, orders: Sequence[Row], client_ids: Sequence[Row], keys: Sequence[Row]
) -> datetime:
    """New orders with the first two rows of their history, their client ids and keys; the time of acceptance.

    Raises:
        Conflict: a client id or a key was taken since it was looked up; the repeat will find it.
    """
    parameters = {
        "orders": rows_as_json(orders),
        "client_ids": rows_as_json(client_ids),
        "keys": rows_as_json(keys),
        "kept_hours": KEPT_HOURS,
    }
    with taken_is_conflict():
        row = connection.execute(_INSERT_ORDERS, parameters).fetchone()
    assert row is not None
    if row["keys"] != len(keys):
        raise Conflict
    at: datetime = row["at"]
    return at


def update_orders(connection: Connection, *, orders: Sequence[Row], history: Sequence[Row]) -> datetime:
    """Write changed orders and what their histories gained; the time of the change.

    Raises:
        Conflict: an order is no longer of its `read_version`.
    """
    parameters = {"orders": rows_as_json(orders), "history": rows_as_json(history), "expected": len(orders)}
    row = connection.execute(_UPDATE_ORDERS, parameters).fetchone()
    if row is None or row["changed"] != len(orders):
        raise Conflict
    at: datetime = row["at"]
    return at


def upsert_instruments(connection: Connection, rows: Sequence[Row]) -> None:
    """A version not newer than the stored one changes nothing. One row per name."""
    connection.execute(_UPSERT_INSTRUMENTS, {"rows": rows_as_json(rows)})


def has_principals(connection: Connection) -> bool:
    """Whether the projection of customers has begun to fill."""
    return connection.execute("SELECT 1 FROM principals LIMIT 1").fetchone() is not None


def list_instruments(connection: Connection) -> list[Row]:
    return connection.execute("SELECT * FROM instruments").fetchall()


def rows_as_json(rows: Sequence[Row]) -> str:
    return msgspec.json.encode(rows).decode()


# What is no longer there was archived.
_FIND_CHANGED = """
SELECT seen.id FROM unnest(%(ids)s::uuid[], %(versions)s::int[]) AS seen (id, version)
LEFT JOIN orders o ON o.id = seen.id WHERE o.version IS DISTINCT FROM seen.version
"""

_FIND_ORDER_BY_CLIENT_ID = f"""
SELECT {ORDER_COLUMNS} FROM all_orders WHERE id = (
    SELECT order_id FROM client_order_ids
    WHERE customer_id = %(customer_id)s AND placed_by = %(placed_by)s AND client_order_id = %(client_order_id)s)
"""

_FIND_ORDERS_TO_CANCEL = f"""
SELECT {ORDER_COLUMNS} FROM orders
WHERE closed_at IS NULL AND status <> '{OrderStatus.PENDING_CANCEL}'
  AND customer_id IN (SELECT customer_id FROM principals
                      WHERE NOT active
                        AND (%(customer_ids)s::bigint[] IS NULL OR customer_id = ANY(%(customer_ids)s::bigint[])))
ORDER BY id LIMIT %(limit)s
"""

_FILTERS = {
    "status": "status = %(status)s",
    "asset_name": "asset_name = %(asset_name)s",
    "order_side": "order_side = %(order_side)s",
    "created_from": "created_at >= %(created_from)s",
    "created_to": "created_at < %(created_to)s",
}

_LIST_HISTORY = """
SELECT seq, status, event_id, actor_id, actor_role, detail, created_at FROM all_order_history
WHERE order_id = %(order_id)s AND seq > %(after_seq)s ORDER BY seq LIMIT %(limit)s
"""

_FIND_CLIENT_IDS = """
SELECT c.customer_id, c.placed_by, c.client_order_id, c.order_id, c.request_digest
FROM json_to_recordset(%(rows)s::json) AS r (customer_id bigint, placed_by bigint, client_order_id text)
JOIN client_order_ids c USING (customer_id, placed_by, client_order_id)
"""

_FIND_KEYS = """
SELECT k.principal, k.method, k.route, k.key, k.request_digest, k.status_code, k.resource_id
FROM json_to_recordset(%(rows)s::json) AS r (principal text, method text, route text, key text)
JOIN idempotency_records k USING (principal, method, route, key)
WHERE k.created_at >= (SELECT brokage_now()) - make_interval(hours => %(kept_hours)s)
"""

_INSERT_ORDERS = """
WITH placed AS (
    INSERT INTO orders (id, organization_id, client_order_id, customer_id, beneficial_owner_id, placed_by,
                        placed_by_role, asset_name, quote_asset, quote_scale, order_side, order_type, time_in_force,
                        size, price, tier, fee_rate, fee_minimum, status, expires_at, created_at, updated_at)
    SELECT id, organization_id, client_order_id, customer_id, beneficial_owner_id, placed_by,
           placed_by_role, asset_name, quote_asset, quote_scale, order_side, order_type, time_in_force,
           size, price, tier, fee_rate, fee_minimum, status, expires_at, (SELECT brokage_now()), (SELECT brokage_now())
    FROM json_to_recordset(%(orders)s::json) AS r (
        id uuid, organization_id uuid, client_order_id text, customer_id bigint, beneficial_owner_id bigint,
        placed_by bigint, placed_by_role text, asset_name text, quote_asset text, quote_scale int, order_side text,
        order_type text, time_in_force text, size numeric, price numeric, tier text, fee_rate numeric,
        fee_minimum numeric, status text, expires_at timestamptz)
), history AS (
    INSERT INTO order_history (order_id, seq, status, event_id, actor_id, actor_role, created_at)
    SELECT r.id, row.seq, row.status, row.event_id, r.placed_by, r.placed_by_role, (SELECT brokage_now())
    FROM json_to_recordset(%(orders)s::json) AS r (
             id uuid, placed_by bigint, placed_by_role text, status text, event_id uuid),
         LATERAL (VALUES (1, 'CREATED', r.event_id), (2, r.status, NULL)) AS row (seq, status, event_id)
), ids AS (
    INSERT INTO client_order_ids (customer_id, placed_by, client_order_id, order_id, request_digest, created_at)
    SELECT r.*, (SELECT brokage_now()) FROM json_to_recordset(%(client_ids)s::json) AS r (
        customer_id bigint, placed_by bigint, client_order_id text, order_id uuid, request_digest text)
), keys AS (
    INSERT INTO idempotency_records AS k
        (principal, method, route, key, request_digest, status_code, resource_id, created_at)
    SELECT r.*, (SELECT brokage_now()) FROM json_to_recordset(%(keys)s::json) AS r (
        principal text, method text, route text, key text, request_digest text, status_code int, resource_id text)
    ON CONFLICT (principal, method, route, key) DO UPDATE
    SET request_digest = excluded.request_digest, status_code = excluded.status_code,
        resource_id = excluded.resource_id, created_at = (SELECT brokage_now())
    WHERE k.created_at < (SELECT brokage_now()) - make_interval(hours => %(kept_hours)s)
    RETURNING 1
)
SELECT (SELECT count(*) FROM keys) AS keys, (SELECT brokage_now()) AS at
"""

CHANGED_CHANNEL = "orders_changed"
"""On which it is said that orders have changed."""

_UPDATE_ORDERS = f"""
WITH changed AS (
    UPDATE orders AS o
    SET status = r.status, filled_size = r.filled_size, filled_notional = r.filled_notional,
        fee_amount = r.fee_amount, rejection_reason = r.rejection_reason, final_status = r.final_status,
        version = r.version, updated_at = (SELECT brokage_now()),
        closed_at = CASE WHEN r.final_status IS NOT NULL THEN (SELECT brokage_now()) END
    FROM json_to_recordset(%(orders)s::json) AS r (
        id uuid, read_version int, version int, status text, final_status text, rejection_reason text,
        filled_size numeric, filled_notional numeric, fee_amount numeric)
    WHERE o.id = r.id AND o.version = r.read_version
    RETURNING 1
), history AS (
    INSERT INTO order_history (order_id, seq, status, event_id, actor_id, actor_role, detail, created_at)
    SELECT r.*, (SELECT brokage_now()) FROM json_to_recordset(%(history)s::json) AS r (
        order_id uuid, seq int, status text, event_id uuid, actor_id bigint, actor_role text, detail jsonb)
    -- A conflict must be told by the count, not by a row of history that the winner has written already.
    WHERE (SELECT count(*) FROM changed) = %(expected)s
)
SELECT count(*) AS changed, (SELECT brokage_now()) AS at, (SELECT pg_notify('{CHANGED_CHANNEL}', '')) AS said FROM changed
"""

_UPSERT_INSTRUMENTS = """
INSERT INTO instruments AS i (asset_name, version, quote_asset, size_scale, price_scale, quote_scale, status)
SELECT * FROM json_to_recordset(%(rows)s::json) AS r (
    asset_name text, version int, quote_asset text, size_scale int, price_scale int, quote_scale int, status text)
ON CONFLICT (asset_name) DO UPDATE SET
    version = excluded.version, quote_asset = excluded.quote_asset, size_scale = excluded.size_scale,
    price_scale = excluded.price_scale, quote_scale = excluded.quote_scale, status = excluded.status
WHERE i.version < excluded.version
"""
