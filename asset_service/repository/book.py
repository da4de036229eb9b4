"""The book of a batch: loaded and stored set-based."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg.rows import tuple_row

from asset_service.book import Asset, AssetKey, Book, Instrument, Reservation, Settlement
from asset_service.ledger import customer_account
from asset_service.repository.ledger import insert_postings
from asset_service.repository.rows import as_json, check_count
from asset_service.states import InstrumentStatus, ReservationStatus
from shared.contracts.orders import OrderSide
from shared.db import Connection, taken_is_conflict
from shared.ids import uuid_array


def load_reservations(connection: Connection, book: Book, order_ids: Sequence[str]) -> None:
    rows = connection.cursor(row_factory=tuple_row).execute(_LOAD_RESERVATIONS, {"ids": uuid_array(order_ids)})
    for row in rows:
        reservation = Reservation(*row)
        reservation.status = ReservationStatus(reservation.status)
        if reservation.order_side is not None:
            reservation.order_side = OrderSide(reservation.order_side)
        book.reservations[reservation.order_id] = reservation


# In the order of the fields of `Reservation`. What a refusal or tombstone has no value for is what it is without one.
_LOAD_RESERVATIONS = """
SELECT id, order_id, customer_id, organization_id, status, asset_name, amount, consumed, released, refusal,
       release_reason, release_amount, order_side, traded_asset, quote_asset, coalesce(quote_scale, 0),
       coalesce(limit_price, 0), coalesce(open_size, 0), filled_notional, coalesce(fee_rate, 0),
       coalesce(fee_minimum, 0), fee_charged, expires_at, version
FROM asset_reservations
WHERE holder_type = 'ORDER' AND holder_id = ANY(%(ids)s::uuid[]) AND leg = 'ORDER'
"""


def load_settlements(connection: Connection, book: Book, trade_ids: Sequence[str]) -> None:
    rows = connection.execute(
        "SELECT trade_id, refusal, notional, buyer_fee, seller_fee FROM settlements WHERE trade_id = ANY(%(ids)s::uuid[])",
        {"ids": uuid_array(trade_ids)},
    ).fetchall()
    for row in rows:
        book.settlements[row["trade_id"]] = Settlement(
            row["refusal"], row["notional"], row["buyer_fee"], row["seller_fee"]
        )


def load_assets(connection: Connection, book: Book, keys: Iterable[AssetKey]) -> None:
    """The customers' assets of these keys; whichever there are."""
    rows = connection.cursor(row_factory=tuple_row).execute(_LOAD_ASSETS, _as_arrays(keys))
    # By position, not by name: a batch loads a thousand of them.
    for row in rows:
        book.assets[row[:2]] = Asset(*row)


# In the order of the fields of `Asset`.
_LOAD_ASSETS = """
SELECT a.customer_id, a.asset_name, a.organization_id, a.size, a.usable_size, a.low_balance, a.version, a.id
FROM unnest(%(customer_ids)s::bigint[], %(asset_names)s::text[]) AS k (customer_id, asset_name)
JOIN assets a ON a.customer_id = k.customer_id AND a.asset_name = k.asset_name
"""


def load_assets_and_terms(
    connection: Connection, book: Book, keys: Iterable[AssetKey], instruments: Iterable[str]
) -> None:
    """The same, whether a customer is known to be inactive, and the instruments of these names; whichever there are."""
    # One statement for both: a key of customer 0, who is nobody, asks for the instrument.
    wanted = {*keys, *((0, name) for name in instruments)}
    rows = connection.cursor(row_factory=tuple_row).execute(_LOAD_ASSETS_AND_TERMS, _as_arrays(wanted))
    for (
        customer_id,
        asset_name,
        *asset,
        active,
        instrument_name,
        quote_asset,
        size_scale,
        price_scale,
        scale,
        status,
    ) in rows:
        if asset[-1] is not None:
            book.assets[(customer_id, asset_name)] = Asset(customer_id, asset_name, *asset)
        if instrument_name is not None:
            terms = (quote_asset, size_scale, price_scale, scale)
            book.instruments[instrument_name] = Instrument(instrument_name, *terms, InstrumentStatus(status))
        # A customer whose events are still on their way is not inactive: who accepted his order knew him.
        if active is False:
            book.inactive.add(customer_id)


_LOAD_ASSETS_AND_TERMS = """
SELECT k.customer_id, k.asset_name, a.organization_id, a.size, a.usable_size, a.low_balance, a.version, a.id,
       p.active, i.asset_name, i.quote_asset, i.size_scale, i.price_scale,
       coalesce(q.size_scale, i.size_scale), i.status
FROM unnest(%(customer_ids)s::bigint[], %(asset_names)s::text[]) AS k (customer_id, asset_name)
LEFT JOIN assets a ON a.customer_id = k.customer_id AND a.asset_name = k.asset_name
LEFT JOIN instruments i ON i.asset_name = k.asset_name AND k.customer_id = 0
LEFT JOIN instruments q ON q.asset_name = i.quote_asset
LEFT JOIN principals p ON p.customer_id = k.customer_id
"""


def _as_arrays(keys: Iterable[AssetKey]) -> dict[str, Any]:
    wanted = sorted(keys)
    return {"customer_ids": [key[0] for key in wanted], "asset_names": [key[1] for key in wanted]}


def store(connection: Connection, book: Book) -> None:
    """Write what the fold has changed, in at most three statements.

    Raises:
        Conflict: a row is not as it was loaded; the transaction must be repeated.
    """
    changed = book.changed_assets.values()
    _insert_assets(connection, [asset for asset in changed if asset.version == 0])
    reservations = book.changed_reservations.values()
    made = [each for each in reservations if each.version == 0]
    for each in made:
        # Known only now: an asset that is new itself was inserted a moment ago.
        asset = book.assets.get((each.customer_id, each.asset_name or ""))
        each.asset_id = asset.id if asset is not None and each.refusal is None else None
    _write(
        connection,
        {
            "assets": _asset_rows([asset for asset in changed if asset.version > 0]),
            "made": made,
            "moved": _reservation_rows([each for each in reservations if each.version > 0]),
        },
    )
    insert_postings(connection, book.postings, book.new_settlements)


def _write(connection: Connection, rows: Mapping[str, Sequence[Any]]) -> None:
    """Write the rows of each part of `_PARTS` in one statement; how many it found must be how many were to be written."""
    parts = [name for name in _PARTS if rows[name]]
    if not parts:
        return
    statement = "WITH " + ", ".join(f"{name} AS ({_PARTS[name]} RETURNING 1)" for name in parts)
    statement += " SELECT " + ", ".join(f"(SELECT count(*) FROM {name}) AS {name}" for name in parts)
    with taken_is_conflict():
        found = connection.execute(statement, {name: as_json(rows[name]) for name in parts}).fetchone()
    assert found is not None
    for name in parts:
        check_count(found[name], len(rows[name]))


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
            SELECT * FROM json_to_recordset(%(rows)s::json) AS v (customer_id bigint, asset_name text, size numeric,
                usable_size numeric, low_balance boolean, organization_id uuid, account_id text)
        ), accounts AS (
            INSERT INTO ledger_accounts (account_id, account_class, owner, asset_name, organization_id, created_at)
            SELECT account_id, 'CUSTOMER', customer_id::text, asset_name, organization_id, (SELECT brokage_now()) FROM v
            ON CONFLICT (account_id) DO NOTHING
        )
        INSERT INTO assets (customer_id, asset_name, size, usable_size, low_balance, organization_id, created_at, updated_at)
        SELECT customer_id, asset_name, size, usable_size, low_balance, organization_id,
               (SELECT brokage_now()), (SELECT brokage_now())
        FROM v ORDER BY customer_id, asset_name
        ON CONFLICT (customer_id, asset_name) DO NOTHING
        RETURNING id, customer_id, asset_name
        """,
        {"rows": as_json(rows)},
    ).fetchall()
    check_count(len(found), len(assets))
    ids = {(row["customer_id"], row["asset_name"]): row["id"] for row in found}
    for asset in assets:
        asset.id = ids[asset.key]


def _asset_rows(assets: Iterable[Asset]) -> list[dict[str, Any]]:
    return [{name: getattr(asset, name) for name in _CHANGING_OF_ASSET} for asset in assets]


def _reservation_rows(reservations: Iterable[Reservation]) -> list[dict[str, Any]]:
    return [{name: getattr(each, name) for name in _CHANGING_OF_RESERVATION} for each in reservations]


_CHANGING_OF_ASSET = ("id", "version", "size", "usable_size", "low_balance")
_CHANGING_OF_RESERVATION = (
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

_PARTS = {
    # Neither a key nor an index's predicate changes unless `low_balance` flips, so these updates stay HOT.
    "assets": """
        UPDATE assets a
        SET size = v.size, usable_size = v.usable_size, low_balance = v.low_balance,
            version = a.version + 1, updated_at = (SELECT brokage_now())
        FROM json_to_recordset(%(assets)s::json)
             AS v (id bigint, version int, size numeric, usable_size numeric, low_balance boolean)
        WHERE a.id = v.id AND a.version = v.version
        """,
    "made": """
        INSERT INTO asset_reservations (id, asset_id, customer_id, asset_name, order_id, holder_type, holder_id, leg,
            amount, consumed, released, status, refusal, release_reason, release_amount, order_side, traded_asset,
            quote_asset, quote_scale, limit_price, open_size, filled_notional, fee_rate, fee_minimum, fee_charged,
            expires_at, organization_id, created_at, updated_at)
        SELECT id, asset_id, customer_id, asset_name, order_id, 'ORDER', order_id, 'ORDER',
            amount, consumed, released, status, refusal, release_reason, release_amount, order_side, traded_asset,
            quote_asset, quote_scale, limit_price, open_size, filled_notional, fee_rate, fee_minimum, fee_charged,
            expires_at, organization_id, (SELECT brokage_now()), (SELECT brokage_now())
        FROM json_to_recordset(%(made)s::json) AS v (id uuid, asset_id bigint, customer_id bigint, asset_name text,
            order_id uuid, amount numeric, consumed numeric, released numeric, status text, refusal text,
            release_reason text, release_amount numeric, order_side text, traded_asset text, quote_asset text,
            quote_scale int, limit_price numeric, open_size numeric, filled_notional numeric, fee_rate numeric,
            fee_minimum numeric, fee_charged numeric, expires_at timestamptz, organization_id uuid)
        """,
    "moved": """
        UPDATE asset_reservations r
        SET consumed = v.consumed, released = v.released, status = v.status, release_reason = v.release_reason,
            release_amount = v.release_amount, open_size = v.open_size, filled_notional = v.filled_notional,
            fee_charged = v.fee_charged, version = r.version + 1, updated_at = (SELECT brokage_now())
        FROM json_to_recordset(%(moved)s::json) AS v (id uuid, version int, consumed numeric, released numeric,
            status text, release_reason text, release_amount numeric, open_size numeric, filled_notional numeric,
            fee_charged numeric)
        WHERE r.id = v.id AND r.version = v.version
        """,
}
"""What the fold changes, each part for itself: the rows of one are none of another's."""
