"""Invariants 1 and 2: what customers own, may use, and have blocked; at any instant."""

from __future__ import annotations

from infra.reconcile.check import Check, Examined
from infra.reconcile.stores import Stores
from shared.money import text


def _usable_within_size(stores: Stores, examined: Examined) -> None:
    with stores.snapshot("asset_service") as connection:
        row = connection.execute("SELECT count(*) AS rows FROM assets").fetchone()
        assert row is not None
        examined.rows += row["rows"]
        for bad in connection.execute(_OUTSIDE):
            examined.found(
                f"asset {bad['customer_id']}:{bad['asset_name']}",
                f"usable_size {text(bad['usable_size'])} of size {text(bad['size'])}",
            )


_OUTSIDE = """
    SELECT customer_id, asset_name, size, usable_size FROM assets
     WHERE NOT (0 <= usable_size AND usable_size <= size) ORDER BY id LIMIT 10000
"""


def _blocked_is_reserved(stores: Stores, examined: Examined) -> None:
    with stores.snapshot("asset_service") as connection:
        row = connection.execute(_BLOCKING_ROWS).fetchone()
        assert row is not None
        examined.rows += row["rows"]
        for bad in connection.execute(_UNEQUAL):
            examined.found(
                f"asset {bad['customer_id']}:{bad['asset_name']}",
                f"{text(bad['blocked'])} is blocked, but active reservations need {text(bad['reserved'])}",
            )


_BLOCKING_ROWS = """
    SELECT (SELECT count(*) FROM assets) + (SELECT count(*) FROM asset_reservations WHERE status = 'ACTIVE') AS rows
"""
_UNEQUAL = """
    SELECT customer_id, asset_name, coalesce(a.size - a.usable_size, 0) AS blocked, coalesce(r.remaining, 0) AS reserved
      FROM assets AS a
      FULL JOIN (SELECT customer_id, asset_name, sum(remaining) AS remaining
                   FROM asset_reservations WHERE status = 'ACTIVE' GROUP BY customer_id, asset_name) AS r
           USING (customer_id, asset_name)
     WHERE coalesce(a.size - a.usable_size, 0) <> coalesce(r.remaining, 0)
     ORDER BY customer_id, asset_name LIMIT 10000
"""

CHECKS = (
    Check(1, "of every customer's asset 0 <= usable_size <= size", _usable_within_size),
    Check(2, "what is blocked of an asset is what its active reservations need", _blocked_is_reserved),
)
