"""Balances, transfers and reservations, one or a page at a time."""

from collections.abc import Sequence
from decimal import Decimal

from asset_service.ledger import customer_account
from asset_service.repository.rows import Row, as_list, where
from shared.db import Connection


def find_asset(connection: Connection, customer_id: int, asset_name: str) -> Row | None:
    return connection.execute(
        "SELECT * FROM assets WHERE customer_id = %(customer_id)s AND asset_name = %(asset_name)s",
        {"customer_id": customer_id, "asset_name": asset_name},
    ).fetchone()


_OVERDUE = """
    FROM asset_reservations
    WHERE expires_at < brokage_now() - make_interval(secs => %(grace_seconds)s) AND status = 'ACTIVE'
"""


def count_overdue_reservations(connection: Connection, *, grace_seconds: float) -> int:
    """Active ones of orders whose time was over longer ago than `grace_seconds`."""
    row = connection.execute(f"SELECT count(*) AS reservations {_OVERDUE}", {"grace_seconds": grace_seconds}).fetchone()
    return int(row["reservations"]) if row else 0


def list_overdue_reservations(connection: Connection, *, grace_seconds: float, limit: int) -> list[Row]:
    """The longest overdue first."""
    return connection.execute(
        f"SELECT * {_OVERDUE} ORDER BY expires_at LIMIT %(limit)s", {"grace_seconds": grace_seconds, "limit": limit}
    ).fetchall()


def list_assets(
    connection: Connection, *, customer_ids: Sequence[int] | None, after: tuple[int, str] | None, limit: int
) -> list[Row]:
    values = {
        "customer_ids": as_list(customer_ids),
        "after_id": after[0] if after else None,
        "after_name": after[1] if after else None,
        "limit": limit,
    }
    conditions = {
        "customer_ids": "customer_id = ANY(%(customer_ids)s)",
        "after_id": "(customer_id, asset_name) > (%(after_id)s, %(after_name)s)",
    }
    return connection.execute(
        f"SELECT * FROM assets {where(conditions, values)} ORDER BY customer_id, asset_name LIMIT %(limit)s", values
    ).fetchall()


def credit(connection: Connection, customer_id: int, asset_name: str, amount: Decimal, organization_id: str) -> Row:
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


def debit(connection: Connection, customer_id: int, asset_name: str, amount: Decimal) -> Row | None:
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
    """False when the customer has a transfer of this kind with this reference already, or another took the proof."""
    cursor = connection.execute(
        """
        INSERT INTO transfers (id, customer_id, kind, asset_name, amount, reference, placed_by, organization_id, proof_id,
                               created_at)
        VALUES (%(id)s, %(customer_id)s, %(kind)s, %(asset_name)s, %(amount)s, %(reference)s, %(placed_by)s,
                %(organization_id)s, %(proof_id)s, brokage_now())
        ON CONFLICT DO NOTHING
        """,
        values,
    )
    return cursor.rowcount == 1


def withdrawn_lately(connection: Connection, customer_id: int, asset_name: str) -> Decimal:
    """The sum of the last 24 hours."""
    row = connection.execute(
        """
        SELECT coalesce(sum(amount), 0) AS amount FROM transfers
        WHERE customer_id = %(customer_id)s AND kind = 'WITHDRAWAL' AND asset_name = %(asset_name)s
          AND created_at > brokage_now() - interval '24 hours'
        """,
        {"customer_id": customer_id, "asset_name": asset_name},
    ).fetchone()
    assert row is not None
    amount: Decimal = row["amount"]
    return amount


def proof_is_taken(connection: Connection, proof_id: str) -> bool:
    query = "SELECT 1 FROM transfers WHERE proof_id = %(proof_id)s"
    return connection.execute(query, {"proof_id": proof_id}).fetchone() is not None


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
    values = {"customer_ids": as_list(customer_ids), "before_id": before_id, "limit": limit}
    conditions = {"customer_ids": "customer_id = ANY(%(customer_ids)s)", "before_id": "id < %(before_id)s::uuid"}
    return connection.execute(
        f"SELECT * FROM transfers {where(conditions, values)} ORDER BY id DESC LIMIT %(limit)s", values
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
        "customer_ids": as_list(customer_ids),
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
        f"SELECT * FROM asset_reservations {where(conditions, values)} ORDER BY id DESC LIMIT %(limit)s", values
    ).fetchall()
