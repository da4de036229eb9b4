"""Every SQL statement of the processor. Nothing here commits."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

import msgspec
from psycopg import sql
from psycopg.rows import args_row, tuple_row

from processor.matching.queue_entry import ENTRY_COLUMNS, QueueEntry
from shared.contracts import Message
from shared.contracts.assets import InstrumentChanged
from shared.db import Conflict, Connection
from shared.ids import ROOT_ORGANIZATION_ID, uuid_array

Row: TypeAlias = dict[str, Any]
_BOOK_LOCK = 7010


def _json(rows: Sequence[Any]) -> str:
    return msgspec.json.encode(rows).decode()


def lock_books(connection: Connection, asset_names: Sequence[str]) -> None:
    """Take the instruments' locks until the transaction ends: match, cancel and settlement of an order are decided one by one.

    In ascending order, so that two holders of several cannot wait for each other.
    """
    connection.execute(
        "SELECT pg_advisory_xact_lock(%(kind)s, key) FROM (SELECT DISTINCT hashtext(name) AS key"
        " FROM unnest(%(names)s::text[]) AS name ORDER BY key) AS keys",
        {"kind": _BOOK_LOCK, "names": list(asset_names)},
    )


# -- sagas ---------------------------------------------------------------------------------------------------------------


def load_sagas(connection: Connection, ids: Sequence[str]) -> list[tuple[str, str, str, int, str | None, str | None]]:
    """saga_id, saga_type, current_state, version, resume_state and reason; by position, because a batch loads a thousand."""
    cursor = connection.cursor(row_factory=tuple_row)
    return cursor.execute(
        "SELECT saga_id, saga_type, current_state, version, resume_state, reason FROM saga_instances"
        " WHERE saga_id = ANY(%s::uuid[])",
        (uuid_array(ids),),
    ).fetchall()


def insert_sagas(connection: Connection, rows: Sequence[Row]) -> None:
    """`rows`: saga_id, saga_type, current_state, payload (an Opening), awaiting_batch_id, deadline_at."""
    connection.execute(
        """INSERT INTO saga_instances
               (saga_id, saga_type, aggregate_id, current_state, payload, awaiting_batch_id, deadline_at, created_at, updated_at)
           SELECT saga_id, saga_type, saga_id::text, current_state, payload, awaiting_batch_id, deadline_at,
                  (SELECT brokage_now()), (SELECT brokage_now())
             FROM json_to_recordset(%(rows)s::json)
               AS row (saga_id uuid, saga_type text, current_state text, payload jsonb, awaiting_batch_id uuid,
                       deadline_at timestamptz)""",
        {"rows": _json(rows)},
    )


def update_sagas(connection: Connection, rows: Sequence[Row]) -> None:
    """`rows`: saga_id, version (as read), steps, current_state, resume_state, reason, awaiting, awaiting_batch_id, deadline_at.

    Raises:
        Conflict: one of them has moved since it was read.
    """
    updated = connection.execute(
        """UPDATE saga_instances AS s
              SET current_state = row.current_state, version = s.version + row.steps, step = s.step + row.steps,
                  retry_count = 0, resume_state = row.resume_state, reason = row.reason, awaiting = row.awaiting,
                  awaiting_batch_id = row.awaiting_batch_id, deadline_at = row.deadline_at, updated_at = (SELECT brokage_now())
             FROM json_to_recordset(%(rows)s::json)
               AS row (saga_id uuid, version int, steps int, current_state text, resume_state text, reason text,
                       awaiting boolean, awaiting_batch_id uuid, deadline_at timestamptz)
            WHERE s.saga_id = row.saga_id AND s.version = row.version""",
        {"rows": _json(rows)},
    ).rowcount
    if updated != len(rows):
        raise Conflict


def end_of_live_sagas(connection: Connection, after: str, limit: int) -> str | None:
    """The last id of the next `limit` sagas that have not ended; None when there are fewer."""
    row = connection.execute(
        "SELECT saga_id FROM saga_instances WHERE live AND saga_id > %s::uuid ORDER BY saga_id OFFSET %s LIMIT 1",
        (after, limit - 1),
    ).fetchone()
    return row["saga_id"] if row else None


def overdue_sagas(
    connection: Connection, *, after: str, until: str | None, answer_seconds: float, limit: int
) -> list[Row]:
    """Sagas whose answer is overdue, of those after one id and up to another (None: to the end). The clock runs only once the
    command's batch is acknowledged: a slow queue is no failure."""
    return connection.execute(
        """SELECT s.saga_id, s.saga_type, s.current_state, s.version, s.step, s.retry_count, s.payload::text AS payload, s.reason
             FROM saga_instances AS s
             LEFT JOIN outbox_events AS o ON o.id = s.awaiting_batch_id
            WHERE s.live AND s.saga_id > %(after)s::uuid AND (%(until)s::uuid IS NULL OR s.saga_id <= %(until)s::uuid)
              AND s.awaiting AND s.deadline_at < (SELECT brokage_now())
              AND (o.id IS NULL OR o.acked_at < (SELECT brokage_now()) - make_interval(secs => %(answer_seconds)s))
            ORDER BY s.saga_id LIMIT %(limit)s FOR UPDATE OF s SKIP LOCKED""",
        {"after": after, "until": until, "answer_seconds": answer_seconds, "limit": limit},
    ).fetchall()


def resend_sagas(connection: Connection, rows: Sequence[Row]) -> None:
    """`rows`: saga_id, awaiting_batch_id, deadline_at; the command went again."""
    connection.execute(
        """UPDATE saga_instances AS s
              SET retry_count = s.retry_count + 1, version = s.version + 1, awaiting_batch_id = row.awaiting_batch_id,
                  deadline_at = row.deadline_at, updated_at = (SELECT brokage_now())
             FROM json_to_recordset(%(rows)s::json) AS row (saga_id uuid, awaiting_batch_id uuid, deadline_at timestamptz)
            WHERE s.saga_id = row.saga_id""",
        {"rows": _json(rows)},
    )


def count_sagas_for_a_person(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) AS sagas FROM saga_instances WHERE needs_human").fetchone()
    return int(row["sagas"]) if row else 0


def find_saga(connection: Connection, saga_id: str, *, lock: bool = False) -> Row | None:
    query = "SELECT *, payload::text AS payload_text FROM saga_instances WHERE saga_id = %s" + (
        " FOR UPDATE" if lock else ""
    )
    return connection.execute(query, (saga_id,)).fetchone()


def list_sagas(connection: Connection, *, state: str | None, before: str | None, limit: int) -> list[Row]:
    """Newest first."""
    conditions, parameters = [sql.SQL("true")], {"limit": limit, "state": state}
    if state is not None:
        conditions.append(sql.SQL("needs_human" if state == "NEEDS_HUMAN" else "current_state = %(state)s"))
    if before is not None:
        conditions.append(sql.SQL("saga_id < %(before)s::uuid"))
        parameters["before"] = before
    query = sql.SQL("SELECT * FROM saga_instances WHERE {} ORDER BY saga_id DESC LIMIT %(limit)s")
    return connection.execute(query.format(sql.SQL(" AND ").join(conditions)), parameters).fetchall()


# -- matching queue ------------------------------------------------------------------------------------------------------


def join_queue(connection: Connection, order_ids: Sequence[str]) -> None:
    """Put confirmed orders on the book, with the terms that their sagas began with, in the order given."""
    connection.execute(
        """INSERT INTO matching_queue
               (id, order_id, organization_id, customer_id, beneficial_owner_id, customer_tier, priority, asset_name, quote_asset,
                order_side, price, size, remaining_size, joined_seq, expires_at, created_at)
           SELECT s.saga_id, s.saga_id, coalesce((s.payload ->> 'organization_id')::uuid, %(root_organization_id)s::uuid),
                  (s.payload ->> 'customer_id')::bigint,
                  t.beneficial_owner_id, t.tier, t.tier_priority, t.asset_name, t.quote_asset, t.order_side, t.price, t.size,
                  t.size, nextval('matching_queue_seq'), t.expires_at, (SELECT brokage_now())
             FROM unnest(%(ids)s::uuid[]) WITH ORDINALITY AS joining (id, position)
             JOIN saga_instances AS s ON s.saga_id = joining.id,
                  jsonb_to_record(s.payload -> 'payload')
                    AS t (beneficial_owner_id bigint, tier text, tier_priority int, asset_name text, quote_asset text,
                          order_side text, price numeric, size numeric, expires_at timestamptz)
            ORDER BY joining.position""",
        {"ids": uuid_array(order_ids), "root_organization_id": ROOT_ORGANIZATION_ID},
    )


def load_queue(connection: Connection, order_ids: Sequence[str]) -> list[Row]:
    return connection.execute(
        "SELECT * FROM matching_queue WHERE id = ANY(%s::uuid[])", (uuid_array(order_ids),)
    ).fetchall()


def load_entries(connection: Connection, order_ids: Sequence[str]) -> dict[str, QueueEntry]:
    """What a decision needs of these orders' rows, by id."""
    cursor = connection.cursor(row_factory=args_row(QueueEntry))
    return {entry.id: entry for entry in cursor.execute(_LOAD_ENTRIES, (uuid_array(order_ids),))}


_LOAD_ENTRIES = f"SELECT {', '.join(ENTRY_COLUMNS)} FROM matching_queue WHERE id = ANY(%s::uuid[])"


def update_queue(connection: Connection, entries: Sequence[QueueEntry]) -> None:
    """Write changed entries.

    Raises:
        Conflict: one of them has changed since it was read.
    """
    updated = connection.execute(
        """UPDATE matching_queue AS q
              SET remaining_size = row.remaining_size, in_settlement_size = row.in_settlement_size,
                  filled_size = row.filled_size, filled_notional = row.filled_notional, fee_amount = row.fee_amount,
                  bust_count = row.bust_count, on_book = row.on_book, version = q.version + 1
             FROM json_to_recordset(%(rows)s::json)
               AS row (id uuid, version int, remaining_size numeric, in_settlement_size numeric, filled_size numeric,
                       filled_notional numeric, fee_amount numeric, bust_count int, on_book boolean)
            WHERE q.id = row.id AND q.version = row.version""",
        {"rows": _json(entries)},
    ).rowcount
    if updated != len(entries):
        raise Conflict


def leave_queue(connection: Connection, order_ids: Sequence[str]) -> None:
    """Final orders are no longer the queue's concern."""
    connection.execute("DELETE FROM matching_queue WHERE id = ANY(%s::uuid[])", (uuid_array(order_ids),))


_SIDES = {
    # policy: (order of the buys, order of the sells)
    "tier-price-time": ("priority, price DESC, joined_seq", "priority, price, joined_seq"),
    "price-tier-time": ("price DESC, priority, joined_seq", "price, priority, joined_seq"),
    "price-time": ("price DESC, joined_seq", "price, joined_seq"),
}
_BEST_PRICES_AT_ONCE = 50
_TERMS_COLUMNS = (
    "organization_id",
    "beneficial_owner_id",
    "priority",
    "asset_name",
    "quote_asset",
    "order_side",
    "price",
)
_CROSSING_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, (*ENTRY_COLUMNS, *_TERMS_COLUMNS, "joined_seq")))


def load_crossing(connection: Connection, asset_name: str, *, policy: str, limit: int) -> list[Row]:
    """Both sides of an instrument's book, each at most `limit` orders in the policy's order and a few of the best prices.

    Only orders that meet the other side's best price are read. The best prices are there so that a sweep finds a match whenever
    there is one, even if the policy puts a thousand others first.
    """
    buys, sells = _SIDES[policy]
    query = sql.SQL(
        """(SELECT {columns} FROM matching_queue WHERE {buying} AND price >= {ask} ORDER BY {buys} LIMIT %(limit)s)
           UNION ALL (SELECT {columns} FROM matching_queue WHERE {buying} ORDER BY price DESC, priority, joined_seq LIMIT %(best)s)
           UNION ALL (SELECT {columns} FROM matching_queue WHERE {selling} AND price <= {bid} ORDER BY {sells} LIMIT %(limit)s)
           UNION ALL (SELECT {columns} FROM matching_queue WHERE {selling} ORDER BY price, priority, joined_seq LIMIT %(best)s)"""
    ).format(
        columns=_CROSSING_COLUMNS,
        buys=sql.SQL(buys),
        sells=sql.SQL(sells),
        buying=_SIDE["BUY"],
        selling=_SIDE["SELL"],
        bid=sql.SQL("(SELECT max(price) FROM matching_queue WHERE {})").format(_SIDE["BUY"]),
        ask=sql.SQL("(SELECT min(price) FROM matching_queue WHERE {})").format(_SIDE["SELL"]),
    )
    rows = connection.execute(query, {"asset_name": asset_name, "limit": limit, "best": _BEST_PRICES_AT_ONCE})
    return list({row["id"]: row for row in rows}.values())


# An order whose time is over is not traded, even if nobody has taken it off the book yet.
_ALIVE = "(expires_at IS NULL OR expires_at > brokage_now())"
_SIDE = {
    side: sql.SQL(f"on_book AND order_side = {{}} AND asset_name = %(asset_name)s AND {_ALIVE}").format(
        sql.Literal(side)
    )
    for side in ("BUY", "SELL")
}


def crossed_instruments(connection: Connection) -> list[str]:
    """Instruments whose best bid meets their best ask."""
    return [row["asset_name"] for row in connection.execute(_CROSSED_INSTRUMENTS)]


# Instruments are found by skipping through an index, one look-up each, and so are their best prices: what rests is not read.
_CROSSED_INSTRUMENTS = f"""
    WITH RECURSIVE sold AS (
        (SELECT asset_name FROM matching_queue WHERE on_book AND order_side = 'SELL' ORDER BY asset_name LIMIT 1)
        UNION ALL
        SELECT next.asset_name FROM sold, LATERAL (
            SELECT asset_name FROM matching_queue
             WHERE on_book AND order_side = 'SELL' AND asset_name > sold.asset_name ORDER BY asset_name LIMIT 1) AS next)
    SELECT asset_name FROM sold
     WHERE (SELECT max(price) FROM matching_queue AS q
             WHERE on_book AND order_side = 'BUY' AND q.asset_name = sold.asset_name AND {_ALIVE})
        >= (SELECT min(price) FROM matching_queue AS q
             WHERE on_book AND order_side = 'SELL' AND q.asset_name = sold.asset_name AND {_ALIVE})
     ORDER BY asset_name
"""


def due_orders(connection: Connection, *, limit: int) -> list[Row]:
    """`id` and `asset_name` of orders on the book whose time is over, the longest overdue first."""
    return connection.execute(
        """SELECT id, asset_name FROM matching_queue
            WHERE on_book AND expires_at IS NOT NULL AND expires_at <= brokage_now()
            ORDER BY expires_at LIMIT %(limit)s""",
        {"limit": limit},
    ).fetchall()


def is_over(connection: Connection, expires_at: datetime | None) -> bool:
    """Whether an order's time is over; it may still be on the book, because the sweep has not come round yet."""
    if expires_at is None:
        return False
    row = connection.execute("SELECT %s <= brokage_now() AS over", (expires_at,)).fetchone()
    return bool(row and row["over"])


def load_openings(connection: Connection, saga_ids: Sequence[str]) -> dict[str, str]:
    """The messages that began these sagas, as JSON text, by id."""
    rows = connection.execute(
        "SELECT saga_id, payload::text AS payload FROM saga_instances WHERE saga_id = ANY(%s::uuid[])",
        (list(saga_ids),),
    )
    return {row["saga_id"]: row["payload"] for row in rows}


def list_queue(connection: Connection, *, asset_name: str | None, after: int | None, limit: int) -> list[Row]:
    """The book in the order its orders joined."""
    return connection.execute(
        """SELECT * FROM matching_queue
            WHERE on_book AND (%(asset_name)s::text IS NULL OR asset_name = %(asset_name)s) AND joined_seq > %(after)s
            ORDER BY joined_seq LIMIT %(limit)s""",
        {"asset_name": asset_name, "after": after or 0, "limit": limit},
    ).fetchall()


# -- trades --------------------------------------------------------------------------------------------------------------


def insert_trades(connection: Connection, rows: Sequence[Row]) -> None:
    connection.execute(
        """INSERT INTO trades (id, organization_id, asset_name, quote_asset, buy_order_id, sell_order_id, buyer_id, seller_id,
                               size, price, created_at)
           SELECT id, organization_id, asset_name, quote_asset, buy_order_id, sell_order_id, buyer_id, seller_id, size, price,
                  (SELECT brokage_now())
             FROM json_to_recordset(%(rows)s::json)
               AS row (id uuid, organization_id uuid, asset_name text, quote_asset text, buy_order_id uuid, sell_order_id uuid,
                       buyer_id bigint, seller_id bigint, size numeric, price numeric)""",
        {"rows": _json(rows)},
    )


def finish_trades(connection: Connection, rows: Sequence[Row]) -> None:
    """`rows`: id, status, buyer_fee, seller_fee, bust_reason."""
    connection.execute(
        """UPDATE trades AS t
              SET status = row.status, buyer_fee = row.buyer_fee, seller_fee = row.seller_fee, bust_reason = row.bust_reason,
                  settled_at = CASE row.status WHEN 'SETTLED' THEN (SELECT brokage_now()) END
             FROM json_to_recordset(%(rows)s::json)
               AS row (id uuid, status text, buyer_fee numeric, seller_fee numeric, bust_reason text)
            WHERE t.id = row.id""",
        {"rows": _json(rows)},
    )


def find_trades(connection: Connection, ids: Sequence[str]) -> list[Row]:
    return connection.execute(
        "SELECT * FROM trades WHERE id = ANY(%s::uuid[]) ORDER BY id", (uuid_array(ids),)
    ).fetchall()


def list_trades(
    connection: Connection,
    *,
    order_id: str | None,
    customer_ids: Sequence[int] | None,
    asset_name: str | None,
    before: str | None,
    limit: int,
) -> list[Row]:
    """Newest first; `customer_ids` None for everybody's."""
    conditions = [sql.SQL("true")]
    if order_id is not None:
        conditions.append(sql.SQL("(buy_order_id = %(order_id)s::uuid OR sell_order_id = %(order_id)s::uuid)"))
    if customer_ids is not None:
        conditions.append(sql.SQL("(buyer_id = ANY(%(customer_ids)s) OR seller_id = ANY(%(customer_ids)s))"))
    if asset_name is not None:
        conditions.append(sql.SQL("asset_name = %(asset_name)s"))
    if before is not None:
        conditions.append(sql.SQL("id < %(before)s::uuid"))
    query = sql.SQL("SELECT * FROM trades WHERE {} ORDER BY id DESC LIMIT %(limit)s").format(
        sql.SQL(" AND ").join(conditions)
    )
    return connection.execute(
        query,
        {
            "order_id": order_id,
            "customer_ids": list(customer_ids or ()),
            "asset_name": asset_name,
            "before": before,
            "limit": limit,
        },
    ).fetchall()


# -- projections ---------------------------------------------------------------------------------------------------------


def apply_instruments(connection: Connection, messages: Sequence[Message[InstrumentChanged]]) -> None:
    """Newest definition of each instrument; one not newer than the stored one changes nothing."""
    newest = {message.payload.asset_name: message for message in sorted(messages, key=lambda m: m.aggregate_version)}
    rows = [
        {"version": message.aggregate_version, **msgspec.structs.asdict(message.payload)} for message in newest.values()
    ]
    if rows:
        connection.execute(
            """INSERT INTO instruments AS i (asset_name, version, size_scale, price_scale)
               SELECT asset_name, version, size_scale, price_scale FROM json_to_recordset(%(rows)s::json)
                   AS row (asset_name text, version int, size_scale int, price_scale int)
               ON CONFLICT (asset_name) DO UPDATE SET version = excluded.version, size_scale = excluded.size_scale,
                   price_scale = excluded.price_scale
                WHERE i.version < excluded.version""",
            {"rows": _json(rows)},
        )


def find_instrument(connection: Connection, asset_name: str) -> Row | None:
    return connection.execute("SELECT * FROM instruments WHERE asset_name = %s", (asset_name,)).fetchone()


def has_principals(connection: Connection) -> bool:
    """Whether the projection of customers holds anything yet; a system always has an admin."""
    row = connection.execute("SELECT EXISTS (SELECT FROM principals) AS filled").fetchone()
    return bool(row and row["filled"])
