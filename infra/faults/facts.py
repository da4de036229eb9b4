"""What the stores say at the end about the run's own customers, past every service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from auditor.documents import LOGS
from infra.reconcile.stores import Stores
from notifier.documents import NOTIFICATIONS

Row = dict[str, Any]


@dataclass(slots=True)
class Facts:
    """Rows by id. `told`: how often a customer got a notification of a type about a thing; `audited`: how many records of an action
    on a thing, and by whom."""

    orders: dict[str, Row] = field(default_factory=dict)
    transfers: dict[str, Row] = field(default_factory=dict)
    trades: dict[str, Row] = field(default_factory=dict)
    balances: dict[tuple[int, str], Decimal] = field(default_factory=dict)
    external: dict[str, Decimal] = field(default_factory=dict)
    told: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    read_notifications: set[str] = field(default_factory=set)
    audited: Counter[tuple[str, str, int | None]] = field(default_factory=Counter)


def load(stores: Stores, customers: Collection[int], shares: Collection[str]) -> Facts:
    """Everything of these customers. Raises DatabaseUnavailable."""
    parameters = {"customers": list(customers), "shares": list(shares)}
    with stores.snapshot("order_service") as connection:
        orders = {row["id"]: row for row in connection.execute(_ORDERS, parameters)}
    with stores.snapshot("asset_service") as connection:
        transfers = {row["id"]: row for row in connection.execute(_TRANSFERS, parameters)}
        balances = {
            (row["customer_id"], row["asset_name"]): row["size"] for row in connection.execute(_BALANCES, parameters)
        }
        external = {row["asset_name"]: row["amount"] for row in connection.execute(_EXTERNAL, parameters)}
    with stores.snapshot("processor") as connection:
        trades = {row["id"]: row for row in connection.execute(_TRADES, parameters)}
    facts = Facts(orders, transfers, trades, balances, external)
    _load_notifications(stores, customers, facts)
    _load_audit(stores, facts)
    return facts


_ORDERS = """
    SELECT id, customer_id, placed_by, client_order_id, asset_name, order_side, size, price, filled_size,
           coalesce(final_status, status) AS status
      FROM all_orders WHERE customer_id = ANY(%(customers)s)
"""
_TRANSFERS = """
    SELECT id, customer_id, kind, asset_name, amount, reference FROM transfers WHERE customer_id = ANY(%(customers)s)
"""
_BALANCES = "SELECT customer_id, asset_name, size FROM assets WHERE customer_id = ANY(%(customers)s)"
_EXTERNAL = """
    SELECT e.asset_name, sum(e.amount) AS amount
      FROM ledger_entries AS e JOIN ledger_accounts AS a ON a.account_id = e.account_id
     WHERE a.account_class = 'EXTERNAL' AND e.asset_name = ANY(%(shares)s) GROUP BY e.asset_name
"""
_TRADES = """
    SELECT id, status, asset_name, quote_asset, buy_order_id, sell_order_id, buyer_id, seller_id, size, price,
           coalesce(buyer_fee, 0) AS buyer_fee, coalesce(seller_fee, 0) AS seller_fee
      FROM trades WHERE asset_name = ANY(%(shares)s)
"""


def _load_notifications(stores: Stores, customers: Collection[int], facts: Facts) -> None:
    fields = {"customer_id": 1, "type": 1, "related_entity": 1, "read_status": 1, "notification_id": 1}
    database = stores.documents("notifier")
    with database.reachable():
        for customer_id in customers:
            for row in database[NOTIFICATIONS].find({"customer_id": customer_id}, fields):
                related = row.get("related_entity") or {}
                facts.told[(customer_id, row["type"], str(related.get("id")))] += 1
                if row["read_status"] == "READ":
                    facts.read_notifications.add(row["notification_id"])


def _load_audit(stores: Stores, facts: Facts) -> None:
    database = stores.documents("auditor")
    with database.reachable():
        for action in ("OrderCreated", "FundsDeposited", "FundsWithdrawn"):
            for row in database[LOGS].find({"action": action}, {"entity_id": 1, "user_id": 1}):
                facts.audited[(action, row["entity_id"], row["user_id"])] += 1
