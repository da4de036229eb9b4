"""Invariants 3 and 4: the ledger adds up and was never changed; at any instant."""

from __future__ import annotations

from asset_service import repository
from asset_service.ledger import Leg, digest
from infra.reconcile.check import Check, Examined
from infra.reconcile.stores import Stores
from shared.money import text


def _adds_up(stores: Stores, examined: Examined) -> None:
    with stores.snapshot("asset_service") as connection:
        row = connection.execute(_ROWS).fetchone()
        assert row is not None
        examined.rows += row["rows"]
        for bad in connection.execute(_UNBALANCED):
            examined.found(f"transaction {bad['tx_ref']}", f"sums to {text(bad['total'])} {bad['asset_name']}")
        for bad in connection.execute(_ONE_LEGGED):
            examined.found(f"transaction {bad['tx_ref']}", f"has {bad['legs']} legs")
        for bad in connection.execute(_ORPHANS):
            examined.found(
                f"entry {bad['id']}", f"of transaction {bad['tx_ref']} and account {bad['account_id']}: {bad['reason']}"
            )
        for bad in connection.execute(_NOT_ZERO):
            examined.found(f"asset {bad['asset_name']}", f"all accounts sum to {text(bad['total'])}")
        for bad in connection.execute(_OTHER_SIZE):
            examined.found(
                f"account {bad['account_id']}",
                f"the ledger has {text(bad['total'])}, the asset {text(bad['size'])}",
            )


_ROWS = """
    SELECT (SELECT count(*) FROM ledger_entries) + (SELECT count(*) FROM ledger_transactions)
         + (SELECT count(*) FROM assets) AS rows
"""
_UNBALANCED = """
    SELECT tx_ref, asset_name, sum(amount) AS total FROM ledger_entries
     GROUP BY tx_ref, asset_name HAVING sum(amount) <> 0 ORDER BY tx_ref, asset_name LIMIT 10000
"""
_ONE_LEGGED = """
    SELECT t.tx_ref, count(e.id) AS legs FROM ledger_transactions AS t LEFT JOIN ledger_entries AS e USING (tx_ref)
     GROUP BY t.tx_ref HAVING count(e.id) < 2 ORDER BY t.tx_ref LIMIT 10000
"""
_ORPHANS = """
    SELECT e.id, e.tx_ref, e.account_id,
           CASE WHEN t.tx_ref IS NULL THEN 'there is no such transaction'
                WHEN a.account_id IS NULL THEN 'there is no such account' ELSE 'the account is of another asset' END AS reason
      FROM ledger_entries AS e
      LEFT JOIN ledger_transactions AS t USING (tx_ref)
      LEFT JOIN ledger_accounts AS a ON a.account_id = e.account_id
     WHERE t.tx_ref IS NULL OR a.asset_name IS DISTINCT FROM e.asset_name ORDER BY e.id LIMIT 10000
"""
_NOT_ZERO = """
    SELECT asset_name, sum(amount) AS total FROM ledger_entries
     GROUP BY asset_name HAVING sum(amount) <> 0 ORDER BY asset_name LIMIT 10000
"""
_OTHER_SIZE = """
    SELECT coalesce(l.account_id, s.account_id) AS account_id, coalesce(l.total, 0) AS total, coalesce(s.size, 0) AS size
      FROM (SELECT account_id, sum(amount) AS total FROM ledger_entries
             WHERE starts_with(account_id, 'customer:') GROUP BY account_id) AS l
      FULL JOIN (SELECT 'customer:' || customer_id || ':' || asset_name AS account_id, size FROM assets) AS s
           ON s.account_id = l.account_id
     WHERE coalesce(l.total, 0) <> coalesce(s.size, 0) ORDER BY 1 LIMIT 10000
"""


def _was_never_changed(stores: Stores, examined: Examined) -> None:
    with stores.snapshot("asset_service") as connection:
        for rows in repository.stream_ledger(connection):
            legs = [
                Leg(row["account_id"], row["asset_name"], row["amount"])
                for row in rows
                if row["account_id"] is not None
            ]
            examined.rows += 1 + len(legs)
            if digest(legs) != rows[0]["digest"]:
                examined.found(f"transaction {rows[0]['tx_ref']}", "its legs are not those that were posted")


CHECKS = (
    Check(3, "every transaction and asset sums to zero; balances are the ledger's", _adds_up),
    Check(4, "the digest of every ledger transaction recomputes", _was_never_changed),
)
