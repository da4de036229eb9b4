"""Instruments."""

from collections.abc import Sequence

from asset_service.repository.rows import PARTITION_LOCK, Row
from shared.db import Connection

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
    connection.execute("SELECT pg_advisory_xact_lock(%(kind)s, 0)", {"kind": PARTITION_LOCK + 1})


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
