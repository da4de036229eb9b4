"""The ledger's tables: written by `insert_postings` only, and never changed."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from asset_service.book import Settlement
from asset_service.ledger import SYSTEM_CLASSES, Posting, system_account
from asset_service.repository.rows import Row, as_json, where
from shared.db import Connection, taken_is_conflict
from shared.ids import new_id

_STREAM_TRANSACTIONS = 1_000


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
    rows = {"transactions": as_json(transactions), "entries": as_json(entries), "settlements": as_json(answers)}
    with taken_is_conflict():
        connection.execute(_INSERT_POSTINGS, rows)


_INSERT_POSTINGS = """
WITH t AS (
    INSERT INTO ledger_transactions (tx_ref, kind, source_type, source_id, digest, created_at)
    SELECT tx_ref, kind, source_type, source_id, digest, (SELECT brokage_now())
    FROM json_to_recordset(%(transactions)s::json)
         AS v (tx_ref text, kind text, source_type text, source_id text, digest text)
), e AS (
    INSERT INTO ledger_entries (id, tx_ref, account_id, asset_name, amount, created_at)
    SELECT id, tx_ref, account_id, asset_name, amount, (SELECT brokage_now())
    FROM json_to_recordset(%(entries)s::json)
         AS v (id uuid, tx_ref text, account_id text, asset_name text, amount numeric)
)
INSERT INTO settlements (trade_id, refusal, notional, buyer_fee, seller_fee, created_at)
SELECT trade_id, refusal, notional, buyer_fee, seller_fee, (SELECT brokage_now())
FROM json_to_recordset(%(settlements)s::json)
     AS v (trade_id uuid, refusal text, notional numeric, buyer_fee numeric, seller_fee numeric)
"""


def insert_system_accounts(connection: Connection, asset_name: str) -> None:
    """The system's own accounts of an asset; those that exist stay."""
    rows = [{"account_id": system_account(each, asset_name), "account_class": each.value} for each in SYSTEM_CLASSES]
    connection.execute(
        """
        INSERT INTO ledger_accounts (account_id, account_class, asset_name, created_at)
        SELECT account_id, account_class, %(asset_name)s, (SELECT brokage_now())
        FROM json_to_recordset(%(rows)s::json) AS v (account_id text, account_class text)
        ON CONFLICT (account_id) DO NOTHING
        """,
        {"rows": as_json(rows), "asset_name": asset_name},
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
        {where(conditions, values)}
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
