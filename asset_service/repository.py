"""Every SQL statement of asset_service. Nothing here commits.

Rows travel as one JSON text each way in, so that a statement costs the same round trip for one row and for five hundred.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from asset_service.book import Asset, AssetKey, Book, Instrument, Reservation, Settlement
from asset_service.ledger import SYSTEM_CLASSES, Posting, customer_account, system_account
from asset_service.models import InstrumentStatus, ReservationStatus
from shared.contracts.message import partition_of
from shared.contracts.orders import OrderSide
from shared.db import Conflict, Connection
from shared.ids import new_id

Row = dict[str, Any]

PARTITIONS = 16
_PARTITION_LOCK = 7101
_STREAM_TRANSACTIONS = 1_000


def _json(rows: Any) -> str:
    return msgspec.json.encode(rows).decode()


# --- partitions ---


def lock_partitions(connection: Connection, customer_ids: Iterable[int]) -> None:
    """Be the only writer of these customers' balances until the transaction ends. In ascending order, so that two
    batches wait for each other and never deadlock."""
    partitions = sorted({partition_of(str(customer_id)) % PARTITIONS for customer_id in customer_ids})
    if partitions:
        connection.execute(
            "SELECT pg_advisory_xact_lock(%(kind)s, p) FROM unnest(%(partitions)s::int[]) AS p",
            {"kind": _PARTITION_LOCK, "partitions": partitions},
        )


# --- the book ---


def load_reservations(connection: Connection, book: Book, order_ids: Sequence[str]) -> None:
    rows = connection.execute(
        """
        SELECT r.* FROM asset_reservations r
        WHERE r.holder_type = 'ORDER' AND r.holder_id = ANY(%(ids)s::uuid[]) AND r.leg = 'ORDER'
        """,
        {"ids": list(order_ids)},
    ).fetchall()
    for row in rows:
        book.reservations[row["order_id"]] = _reservation(row)


def load_settlements(connection: Connection, book: Book, trade_ids: Sequence[str]) -> None:
    rows = connection.execute(
        "SELECT trade_id, refusal, notional, buyer_fee, seller_fee FROM settlements WHERE trade_id = ANY(%(ids)s::uuid[])",
        {"ids": list(trade_ids)},
    ).fetchall()
    for row in rows:
        book.settlements[row["trade_id"]] = Settlement(
            row["refusal"], row["notional"], row["buyer_fee"], row["seller_fee"]
        )


def load_assets(connection: Connection, book: Book, keys: Iterable[AssetKey], instruments: Iterable[str]) -> None:
    """The customers' assets of these keys, whether a customer is known to be inactive, and the instruments of these
    names; whichever there are."""
    # One statement for both: a key of customer 0, who is nobody, asks for the instrument.
    wanted = sorted({*keys, *((0, name) for name in instruments)})
    rows = connection.execute(
        """
        SELECT k.customer_id, k.asset_name, a.id, a.size, a.usable_size, a.low_balance, a.organization_id, a.version,
               i.quote_asset, i.size_scale, i.price_scale, i.status, coalesce(q.size_scale, i.size_scale) AS quote_scale,
               p.active
        FROM unnest(%(customer_ids)s::bigint[], %(asset_names)s::text[]) AS k (customer_id, asset_name)
        LEFT JOIN assets a ON a.customer_id = k.customer_id AND a.asset_name = k.asset_name
        LEFT JOIN instruments i ON i.asset_name = k.asset_name AND k.customer_id = 0
        LEFT JOIN instruments q ON q.asset_name = i.quote_asset
        LEFT JOIN principals p ON p.customer_id = k.customer_id
        """,
        {"customer_ids": [key[0] for key in wanted], "asset_names": [key[1] for key in wanted]},
    ).fetchall()
    for row in rows:
        if row["id"] is not None:
            book.assets[(row["customer_id"], row["asset_name"])] = _asset(row)
        if row["status"] is not None:
            book.instruments[row["asset_name"]] = _instrument(row)
        # A customer whose events are still on their way is not inactive: who accepted his order knew him.
        if row["active"] is False:
            book.inactive.add(row["customer_id"])


def store(connection: Connection, book: Book) -> None:
    """Write what the fold has changed, in at most five statements.

    Raises:
        Conflict: a row is not as it was loaded; the transaction must be repeated.
    """
    changed = book.changed_assets.values()
    _insert_assets(connection, [asset for asset in changed if asset.version == 0])
    _update_assets(connection, [asset for asset in changed if asset.version > 0])
    reservations = book.changed_reservations.values()
    _insert_reservations(connection, book, [each for each in reservations if each.version == 0])
    _update_reservations(connection, [each for each in reservations if each.version > 0])
    insert_postings(connection, book.postings, book.new_settlements)


def _insert_assets(connection: Connection, assets: Sequence[Asset]) -> None:
    if not assets:
        return
    rows = [
        {
            "customer_id": asset.customer_id,
            "asset_name": asset.asset_name,
            "size": asset.size,
            "usable_size": asset.usable_size,
            "low_balance": asset.low_balance,
            "organization_id": asset.organization_id,
            "account_id": customer_account(*asset.key),
        }
        for asset in assets
    ]
    found = connection.execute(
        """
        WITH v AS (
            SELECT * FROM jsonb_to_recordset(%(rows)s::jsonb) AS v (customer_id bigint, asset_name text, size numeric,
                usable_size numeric, low_balance boolean, organization_id uuid, account_id text)
        ), accounts AS (
            INSERT INTO ledger_accounts (account_id, account_class, owner, asset_name, organization_id, created_at)
            SELECT account_id, 'CUSTOMER', customer_id::text, asset_name, organization_id, brokage_now() FROM v
            ON CONFLICT (account_id) DO NOTHING
        )
        INSERT INTO assets (customer_id, asset_name, size, usable_size, low_balance, organization_id, created_at, updated_at)
        SELECT customer_id, asset_name, size, usable_size, low_balance, organization_id, brokage_now(), brokage_now()
        FROM v ORDER BY customer_id, asset_name
        ON CONFLICT (customer_id, asset_name) DO NOTHING
        RETURNING id, customer_id, asset_name
        """,
        {"rows": _json(rows)},
    ).fetchall()
    _check(len(found), len(assets))
    ids = {(row["customer_id"], row["asset_name"]): row["id"] for row in found}
    for asset in assets:
        asset.id = ids[asset.key]


def _update_assets(connection: Connection, assets: Sequence[Asset]) -> None:
    if not assets:
        return
    rows = [
        {
            "id": asset.id,
            "version": asset.version,
            "size": asset.size,
            "usable_size": asset.usable_size,
            "low_balance": asset.low_balance,
        }
        for asset in assets
    ]
    # Neither a key nor an index's predicate changes unless `low_balance` flips, so these updates stay HOT.
    cursor = connection.execute(
        """
        UPDATE assets a
        SET size = v.size, usable_size = v.usable_size, low_balance = v.low_balance,
            version = a.version + 1, updated_at = brokage_now()
        FROM jsonb_to_recordset(%(rows)s::jsonb)
             AS v (id bigint, version int, size numeric, usable_size numeric, low_balance boolean)
        WHERE a.id = v.id AND a.version = v.version
        """,
        {"rows": _json(rows)},
    )
    _check(cursor.rowcount, len(assets))


def _insert_reservations(connection: Connection, book: Book, reservations: Sequence[Reservation]) -> None:
    if not reservations:
        return
    cursor = connection.execute(
        """
        INSERT INTO asset_reservations (id, asset_id, customer_id, asset_name, order_id, holder_type, holder_id, leg,
            amount, consumed, released, status, refusal, release_reason, release_amount, order_side, traded_asset,
            quote_asset, quote_scale, limit_price, open_size, filled_notional, fee_rate, fee_minimum, fee_charged,
            organization_id, created_at, updated_at)
        SELECT id, asset_id, customer_id, asset_name, order_id, 'ORDER', order_id, 'ORDER',
            amount, consumed, released, status, refusal, release_reason, release_amount, order_side, traded_asset,
            quote_asset, quote_scale, limit_price, open_size, filled_notional, fee_rate, fee_minimum, fee_charged,
            organization_id, brokage_now(), brokage_now()
        FROM jsonb_to_recordset(%(rows)s::jsonb) AS v (id uuid, asset_id bigint, customer_id bigint, asset_name text,
            order_id uuid, amount numeric, consumed numeric, released numeric, status text, refusal text,
            release_reason text, release_amount numeric, order_side text, traded_asset text, quote_asset text,
            quote_scale int, limit_price numeric, open_size numeric, filled_notional numeric, fee_rate numeric,
            fee_minimum numeric, fee_charged numeric, organization_id uuid)
        ON CONFLICT (holder_type, holder_id, leg) DO NOTHING
        """,
        {"rows": _json([_reservation_row(book, each) for each in reservations])},
    )
    _check(cursor.rowcount, len(reservations))


def _reservation_row(book: Book, reservation: Reservation) -> Row:
    row = {name: getattr(reservation, name) for name in _RESERVATION_FIELDS}
    asset = book.assets.get((reservation.customer_id, reservation.asset_name or ""))
    row["asset_id"] = asset.id if asset is not None and reservation.refusal is None else None
    return row


_RESERVATION_FIELDS = tuple(name for name in Reservation.__dataclass_fields__ if name != "version")


def _update_reservations(connection: Connection, reservations: Sequence[Reservation]) -> None:
    if not reservations:
        return
    rows = [{name: getattr(each, name) for name in _CHANGING_FIELDS} for each in reservations]
    cursor = connection.execute(
        """
        UPDATE asset_reservations r
        SET consumed = v.consumed, released = v.released, status = v.status, release_reason = v.release_reason,
            release_amount = v.release_amount, open_size = v.open_size, filled_notional = v.filled_notional,
            fee_charged = v.fee_charged, version = r.version + 1, updated_at = brokage_now()
        FROM jsonb_to_recordset(%(rows)s::jsonb) AS v (id uuid, version int, consumed numeric, released numeric,
            status text, release_reason text, release_amount numeric, open_size numeric, filled_notional numeric,
            fee_charged numeric)
        WHERE r.id = v.id AND r.version = v.version
        """,
        {"rows": _json(rows)},
    )
    _check(cursor.rowcount, len(reservations))


_CHANGING_FIELDS = (
    "id",
    "version",
    "consumed",
    "released",
    "status",
    "release_reason",
    "release_amount",
    "open_size",
    "filled_notional",
    "fee_charged",
)


def _check(written: int, wanted: int) -> None:
    if written != wanted:
        raise Conflict(f"{wanted - written} of {wanted} rows are not as they were loaded")


def _asset(row: Row) -> Asset:
    return Asset(
        customer_id=row["customer_id"],
        asset_name=row["asset_name"],
        organization_id=row["organization_id"],
        size=row["size"],
        usable_size=row["usable_size"],
        low_balance=row["low_balance"],
        version=row["version"],
        id=row["id"],
    )


def _instrument(row: Row) -> Instrument:
    return Instrument(
        asset_name=row["asset_name"],
        quote_asset=row["quote_asset"],
        size_scale=row["size_scale"],
        price_scale=row["price_scale"],
        quote_scale=row["quote_scale"],
        status=InstrumentStatus(row["status"]),
    )


def _reservation(row: Row) -> Reservation:
    values = {name: row[name] for name in Reservation.__dataclass_fields__ if row[name] is not None}
    values["status"] = ReservationStatus(row["status"])
    if row["order_side"] is not None:
        values["order_side"] = OrderSide(row["order_side"])
    return Reservation(**values)


# --- the ledger ---


def insert_postings(connection: Connection, postings: Sequence[Posting], settlements: dict[str, Settlement]) -> None:
    """Write ledger transactions with their legs, and the answers to trades.

    Raises:
        Conflict: one of them is there already, written since the caller looked.
    """
    if not postings and not settlements:
        return
    transactions = [
        {
            "tx_ref": posting.tx_ref,
            "kind": posting.kind,
            "source_type": posting.source_type,
            "source_id": posting.source_id,
            "digest": posting.digest,
        }
        for posting in postings
    ]
    entries = [
        {"id": new_id(), "tx_ref": posting.tx_ref, "account_id": account_id, "asset_name": name, "amount": amount}
        for posting in postings
        for account_id, name, amount in posting.legs
    ]
    answers = [
        {
            "trade_id": trade_id,
            "refusal": each.refusal,
            "notional": each.notional,
            "buyer_fee": each.buyer_fee,
            "seller_fee": each.seller_fee,
        }
        for trade_id, each in settlements.items()
    ]
    row = connection.execute(
        _INSERT_POSTINGS,
        {"transactions": _json(transactions), "entries": _json(entries), "settlements": _json(answers)},
    ).fetchone()
    assert row is not None
    _check(row["transactions"], len(transactions))
    _check(row["settlements"], len(answers))


_INSERT_POSTINGS = """
WITH t AS (
    INSERT INTO ledger_transactions (tx_ref, kind, source_type, source_id, digest, created_at)
    SELECT tx_ref, kind, source_type, source_id, digest, brokage_now()
    FROM jsonb_to_recordset(%(transactions)s::jsonb)
         AS v (tx_ref text, kind text, source_type text, source_id text, digest text)
    ON CONFLICT (tx_ref) DO NOTHING
    RETURNING 1
), e AS (
    INSERT INTO ledger_entries (id, tx_ref, account_id, asset_name, amount, created_at)
    SELECT id, tx_ref, account_id, asset_name, amount, brokage_now()
    FROM jsonb_to_recordset(%(entries)s::jsonb)
         AS v (id uuid, tx_ref text, account_id text, asset_name text, amount numeric)
), s AS (
    INSERT INTO settlements (trade_id, refusal, notional, buyer_fee, seller_fee, created_at)
    SELECT trade_id, refusal, notional, buyer_fee, seller_fee, brokage_now()
    FROM jsonb_to_recordset(%(settlements)s::jsonb)
         AS v (trade_id uuid, refusal text, notional numeric, buyer_fee numeric, seller_fee numeric)
    ON CONFLICT (trade_id) DO NOTHING
    RETURNING 1
)
SELECT (SELECT count(*) FROM t) AS transactions, (SELECT count(*) FROM s) AS settlements
"""


def insert_system_accounts(connection: Connection, asset_name: str) -> None:
    """The system's own accounts of an asset; those that exist stay."""
    rows = [{"account_id": system_account(each, asset_name), "account_class": each.value} for each in SYSTEM_CLASSES]
    connection.execute(
        """
        INSERT INTO ledger_accounts (account_id, account_class, asset_name, created_at)
        SELECT account_id, account_class, %(asset_name)s, brokage_now()
        FROM jsonb_to_recordset(%(rows)s::jsonb) AS v (account_id text, account_class text)
        ON CONFLICT (account_id) DO NOTHING
        """,
        {"rows": _json(rows), "asset_name": asset_name},
    )


def list_ledger_entries(
    connection: Connection,
    *,
    customer_ids: Sequence[int] | None,
    tx_ref: str | None,
    before_id: str | None,
    limit: int,
) -> list[Row]:
    """Newest first. `customer_ids`: only of their accounts; `before_id`: the last entry seen."""
    values = {
        "owners": None if customer_ids is None else [str(each) for each in customer_ids],
        "tx_ref": tx_ref,
        "before_id": before_id,
        "limit": limit,
    }
    conditions = {
        "owners": "e.account_id = ANY(ARRAY(SELECT account_id FROM ledger_accounts WHERE owner = ANY(%(owners)s)))",
        "tx_ref": "e.tx_ref = %(tx_ref)s",
        "before_id": "e.id < %(before_id)s::uuid",
    }
    return connection.execute(
        f"""
        SELECT e.id, e.tx_ref, t.kind, t.source_type, t.source_id, e.account_id, a.account_class,
               a.owner::bigint AS customer_id, e.asset_name, e.amount, e.created_at
        FROM ledger_entries e
        JOIN ledger_transactions t USING (tx_ref)
        JOIN ledger_accounts a ON a.account_id = e.account_id
        {_where(conditions, values)}
        ORDER BY e.id DESC LIMIT %(limit)s
        """,
        values,
    ).fetchall()


def stream_ledger(connection: Connection) -> Iterator[list[Row]]:
    """Each transaction's rows, by `tx_ref`: one per entry, or one without an entry. Memory does not grow with the ledger.
    The caller's transaction decides how much of it is one snapshot."""
    last = ""
    while True:
        rows = connection.execute(
            """
            SELECT t.tx_ref, t.digest, e.account_id, e.asset_name, e.amount
            FROM (SELECT tx_ref, digest FROM ledger_transactions WHERE tx_ref > %(last)s
                  ORDER BY tx_ref LIMIT %(limit)s) t
            LEFT JOIN ledger_entries e ON e.tx_ref = t.tx_ref
            ORDER BY t.tx_ref
            """,
            {"last": last, "limit": _STREAM_TRANSACTIONS},
        ).fetchall()
        if not rows:
            return
        for _, group in groupby(rows, key=lambda row: row["tx_ref"]):
            yield list(group)
        last = rows[-1]["tx_ref"]


def find_orphan_entry(connection: Connection) -> Row | None:
    """An entry of no transaction or of no account, if there is one."""
    return connection.execute(
        """
        SELECT e.tx_ref, e.account_id FROM ledger_entries e
        WHERE NOT EXISTS (SELECT FROM ledger_transactions t WHERE t.tx_ref = e.tx_ref)
           OR NOT EXISTS (SELECT FROM ledger_accounts a WHERE a.account_id = e.account_id)
        LIMIT 1
        """
    ).fetchone()


def read_one_snapshot(connection: Connection) -> None:
    """Make the open transaction a read of one moment, however long it takes."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    connection.execute("SET LOCAL statement_timeout = 0")
    connection.execute("SET LOCAL transaction_timeout = 0")


def find_unequal_balance(connection: Connection) -> Row | None:
    """A customer's account whose ledger sum is not his asset's size, if there is one."""
    return connection.execute(
        """
        SELECT coalesce(l.account_id, 'customer:' || s.customer_id || ':' || s.asset_name) AS account_id,
               coalesce(l.total, 0) AS total, coalesce(s.size, 0) AS size
        FROM (SELECT account_id, sum(amount) AS total FROM ledger_entries
              WHERE account_id LIKE 'customer:%' GROUP BY account_id) l
        FULL JOIN assets s ON 'customer:' || s.customer_id || ':' || s.asset_name = l.account_id
        WHERE coalesce(l.total, 0) <> coalesce(s.size, 0)
        LIMIT 1
        """
    ).fetchone()


# --- instruments ---

_INSTRUMENT = """
SELECT i.asset_name, i.quote_asset, i.size_scale, i.price_scale, coalesce(q.size_scale, i.size_scale) AS quote_scale,
       i.status, i.version, i.created_at, i.updated_at
FROM instruments i LEFT JOIN instruments q ON q.asset_name = i.quote_asset
"""


def find_instrument(connection: Connection, asset_name: str) -> Row | None:
    return connection.execute(
        _INSTRUMENT + "WHERE i.asset_name = %(asset_name)s", {"asset_name": asset_name}
    ).fetchone()


def list_instruments(connection: Connection, *, after: str, limit: int) -> list[Row]:
    return connection.execute(
        _INSTRUMENT + "WHERE i.asset_name > %(after)s ORDER BY i.asset_name LIMIT %(limit)s",
        {"after": after, "limit": limit},
    ).fetchall()


def list_quoted_in(connection: Connection, quote_asset: str) -> list[Row]:
    return connection.execute(
        _INSTRUMENT + "WHERE i.quote_asset = %(quote_asset)s ORDER BY i.asset_name", {"quote_asset": quote_asset}
    ).fetchall()


def lock_instruments(connection: Connection) -> None:
    """Definitions change one at a time: the rule of scales spans an instrument and its quote asset."""
    connection.execute("SELECT pg_advisory_xact_lock(%(kind)s, 0)", {"kind": _PARTITION_LOCK + 1})


def upsert_instrument(connection: Connection, values: Row) -> None:
    connection.execute(
        """
        INSERT INTO instruments AS i (asset_name, quote_asset, size_scale, price_scale, status, created_at, updated_at)
        VALUES (%(asset_name)s, %(quote_asset)s, %(size_scale)s, %(price_scale)s, %(status)s, brokage_now(), brokage_now())
        ON CONFLICT (asset_name) DO UPDATE
        SET size_scale = excluded.size_scale, price_scale = excluded.price_scale, status = excluded.status,
            version = i.version + 1, updated_at = brokage_now()
        """,
        values,
    )


def touch_instruments(connection: Connection, asset_names: Sequence[str]) -> None:
    connection.execute(
        "UPDATE instruments SET version = version + 1, updated_at = brokage_now() WHERE asset_name = ANY(%(names)s)",
        {"names": list(asset_names)},
    )


# --- balances and transfers ---


def find_asset(connection: Connection, customer_id: int, asset_name: str) -> Row | None:
    return connection.execute(
        "SELECT * FROM assets WHERE customer_id = %(customer_id)s AND asset_name = %(asset_name)s",
        {"customer_id": customer_id, "asset_name": asset_name},
    ).fetchone()


def list_assets(
    connection: Connection, *, customer_ids: Sequence[int] | None, after: tuple[int, str] | None, limit: int
) -> list[Row]:
    values = {
        "customer_ids": _list(customer_ids),
        "after_id": after[0] if after else None,
        "after_name": after[1] if after else None,
        "limit": limit,
    }
    conditions = {
        "customer_ids": "customer_id = ANY(%(customer_ids)s)",
        "after_id": "(customer_id, asset_name) > (%(after_id)s, %(after_name)s)",
    }
    return connection.execute(
        f"SELECT * FROM assets {_where(conditions, values)} ORDER BY customer_id, asset_name LIMIT %(limit)s", values
    ).fetchall()


def credit(connection: Connection, customer_id: int, asset_name: str, amount: Any, organization_id: str) -> Row:
    """Add to the customer's asset, which comes into being with its account when there is none; the row as it is now."""
    row = connection.execute(
        """
        WITH account AS (
            INSERT INTO ledger_accounts (account_id, account_class, owner, asset_name, organization_id, created_at)
            VALUES (%(account_id)s, 'CUSTOMER', %(owner)s, %(asset_name)s, %(organization_id)s, brokage_now())
            ON CONFLICT (account_id) DO NOTHING
        )
        INSERT INTO assets AS a (customer_id, asset_name, size, usable_size, organization_id, created_at, updated_at)
        VALUES (%(customer_id)s, %(asset_name)s, %(amount)s, %(amount)s, %(organization_id)s, brokage_now(), brokage_now())
        ON CONFLICT (customer_id, asset_name) DO UPDATE
        SET size = a.size + excluded.size, usable_size = a.usable_size + excluded.size,
            low_balance = (a.usable_size + excluded.size) * 10 < a.size + excluded.size,
            version = a.version + 1, updated_at = brokage_now()
        RETURNING *
        """,
        {
            "customer_id": customer_id,
            "asset_name": asset_name,
            "amount": amount,
            "organization_id": organization_id,
            "account_id": customer_account(customer_id, asset_name),
            "owner": str(customer_id),
        },
    ).fetchone()
    assert row is not None
    return row


def debit(connection: Connection, customer_id: int, asset_name: str, amount: Any) -> Row | None:
    """Take from the customer's usable size; the row as it is now, None when he cannot use as much."""
    return connection.execute(
        """
        UPDATE assets
        SET size = size - %(amount)s, usable_size = usable_size - %(amount)s,
            low_balance = (usable_size - %(amount)s) * 10 < size - %(amount)s,
            version = version + 1, updated_at = brokage_now()
        WHERE customer_id = %(customer_id)s AND asset_name = %(asset_name)s AND usable_size >= %(amount)s
        RETURNING *
        """,
        {"customer_id": customer_id, "asset_name": asset_name, "amount": amount},
    ).fetchone()


def insert_transfer(connection: Connection, values: Row) -> bool:
    """False when the customer has a transfer of this kind with this reference already."""
    cursor = connection.execute(
        """
        INSERT INTO transfers (id, customer_id, kind, asset_name, amount, reference, placed_by, organization_id, created_at)
        VALUES (%(id)s, %(customer_id)s, %(kind)s, %(asset_name)s, %(amount)s, %(reference)s, %(placed_by)s,
                %(organization_id)s, brokage_now())
        ON CONFLICT (customer_id, kind, reference) DO NOTHING
        """,
        values,
    )
    return cursor.rowcount == 1


def find_transfer(connection: Connection, transfer_id: str) -> Row | None:
    return connection.execute("SELECT * FROM transfers WHERE id = %(id)s", {"id": transfer_id}).fetchone()


def find_transfer_by_reference(connection: Connection, customer_id: int, kind: str, reference: str) -> Row | None:
    return connection.execute(
        """
        SELECT * FROM transfers
        WHERE customer_id = %(customer_id)s AND kind = %(kind)s AND reference = %(reference)s
        """,
        {"customer_id": customer_id, "kind": kind, "reference": reference},
    ).fetchone()


def list_transfers(
    connection: Connection, *, customer_ids: Sequence[int] | None, before_id: str | None, limit: int
) -> list[Row]:
    """Newest first."""
    values = {"customer_ids": _list(customer_ids), "before_id": before_id, "limit": limit}
    conditions = {"customer_ids": "customer_id = ANY(%(customer_ids)s)", "before_id": "id < %(before_id)s::uuid"}
    return connection.execute(
        f"SELECT * FROM transfers {_where(conditions, values)} ORDER BY id DESC LIMIT %(limit)s", values
    ).fetchall()


def list_reservations(
    connection: Connection,
    *,
    customer_ids: Sequence[int] | None,
    order_id: str | None,
    before_id: str | None,
    limit: int,
) -> list[Row]:
    """Newest first. Refusals and tombstones never blocked anything and are left out."""
    values = {
        "customer_ids": _list(customer_ids),
        "order_id": order_id,
        "before_id": before_id,
        "limit": limit,
        "reserved": True,
    }
    conditions = {
        "customer_ids": "customer_id = ANY(%(customer_ids)s)",
        "order_id": "holder_type = 'ORDER' AND holder_id = %(order_id)s::uuid AND leg = 'ORDER'",
        "before_id": "id < %(before_id)s::uuid",
        "reserved": "refusal IS NULL",
    }
    return connection.execute(
        f"SELECT * FROM asset_reservations {_where(conditions, values)} ORDER BY id DESC LIMIT %(limit)s", values
    ).fetchall()


def _list(customer_ids: Sequence[int] | None) -> list[int] | None:
    return None if customer_ids is None else list(customer_ids)


def _where(conditions: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """Only the conditions whose value is given: each combination gets a plan of its own."""
    given = [sql for name, sql in conditions.items() if values[name] is not None]
    return "WHERE " + " AND ".join(given) if given else ""
