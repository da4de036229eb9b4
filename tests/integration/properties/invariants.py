"""The contract's invariants 1 to 6 as queries, for the assets of one example."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from asset_service.service.verification import verify_ledger
from shared.db import Database
from tests.integration.properties.model import Model
from tests.integration.properties.world import World

_AT_ANY_INSTANT = {
    "1: usable_size is within size": """
        SELECT * FROM assets WHERE asset_name = ANY(%(names)s) AND NOT (0 <= usable_size AND usable_size <= size)""",
    "2: what is not usable is reserved": """
        SELECT a.customer_id, a.asset_name, a.size, a.usable_size, sum(r.remaining) AS reserved
          FROM assets AS a
          LEFT JOIN asset_reservations AS r ON (r.customer_id, r.asset_name, r.status)
                                             = (a.customer_id, a.asset_name, 'ACTIVE')
         WHERE a.asset_name = ANY(%(names)s)
         GROUP BY a.id HAVING a.size - a.usable_size <> coalesce(sum(r.remaining), 0)""",
    "3: every transaction sums to zero per asset": """
        SELECT tx_ref, asset_name, sum(amount) FROM ledger_entries WHERE asset_name = ANY(%(names)s)
         GROUP BY tx_ref, asset_name HAVING sum(amount) <> 0 OR count(*) < 2""",
    "3: sizes equal the ledger": """
        SELECT a.customer_id, a.asset_name, a.size, sum(e.amount) AS ledger
          FROM assets AS a
          LEFT JOIN ledger_entries AS e ON e.account_id = 'customer:' || a.customer_id || ':' || a.asset_name
         WHERE a.asset_name = ANY(%(names)s)
         GROUP BY a.id HAVING a.size <> coalesce(sum(e.amount), 0)""",
}
_RESERVATIONS = """
    SELECT order_id, remaining FROM asset_reservations WHERE traded_asset = ANY(%(names)s) AND status = 'ACTIVE'
"""
_LEGS = """
    SELECT DISTINCT t.source_id FROM ledger_transactions AS t JOIN ledger_entries AS e USING (tx_ref)
     WHERE t.kind = 'TRADE' AND e.asset_name = ANY(%(names)s)
     GROUP BY t.source_id HAVING count(DISTINCT e.asset_name) = 2
"""
_ORDERS = "SELECT * FROM orders WHERE asset_name = ANY(%(names)s)"
_TRADES = "SELECT * FROM trades WHERE asset_name = ANY(%(names)s)"
_UNENDED_SAGAS = """
    SELECT saga_id, current_state FROM saga_instances JOIN matching_queue ON id = saga_id
     WHERE asset_name = ANY(%(names)s) AND current_state NOT IN ('COMPLETED', 'CANCELED', 'EXPIRED', 'REJECTED', 'RESTING')
"""


def check_any_instant(world: World, names: Sequence[str]) -> None:
    """1 to 3, whatever is still on its way."""
    for name, statement in _AT_ANY_INSTANT.items():
        assert _rows(world.assets, statement, names) == [], name


def check_at_rest(world: World, model: Model, names: Sequence[str]) -> None:
    """All of them, and that the databases say what the model says."""
    check_any_instant(world, names)
    _check_balances(world, model, names)
    _check_reservations(world, model, names)
    _check_trades(world, model, names)
    assert _rows(world.processor, _UNENDED_SAGAS, names) == []


def check_ledger(world: World) -> None:
    """4, over everything that was ever posted."""
    found = verify_ledger(world.assets)
    assert found.valid, found


def statuses(world: World, names: Sequence[str]) -> dict[str, str]:
    """Of every order, by id."""
    return {row["id"]: row["status"] for row in _rows(world.orders, _ORDERS, names)}


def _check_balances(world: World, model: Model, names: Sequence[str]) -> None:
    rows = _rows(world.assets, "SELECT * FROM assets WHERE asset_name = ANY(%(names)s)", names)
    found = {(row["customer_id"], row["asset_name"]): (row["size"], row["usable_size"]) for row in rows}
    for number, customer_id in world.ids.items():
        for name in names:
            expected = (model.size(number, name), model.usable(number, name))
            assert found.get((customer_id, name), (Decimal(0), Decimal(0))) == expected, (number, name)


def _check_reservations(world: World, model: Model, names: Sequence[str]) -> None:
    """5: an open order has exactly one that covers exactly what is left, a final order has none."""
    rows = _rows(world.assets, _RESERVATIONS, names)
    expected = {order.id: order.blocks for order in model.orders.values() if order.is_open}
    assert len(rows) == len(expected)
    assert {row["order_id"]: row["remaining"] for row in rows} == expected


def _check_trades(world: World, model: Model, names: Sequence[str]) -> None:
    """6: both legs are settled, and orders, trades and fees agree."""
    trades = _rows(world.processor, _TRADES, names)
    assert {trade["status"] for trade in trades} <= {"SETTLED"}
    assert {trade["id"] for trade in trades} == {row["source_id"] for row in _rows(world.assets, _LEGS, names)}
    orders = _rows(world.orders, _ORDERS, names)
    assert {order["id"] for order in orders} == set(model.orders)
    for row in orders:
        order = model.orders[row["id"]]
        side = order.side.lower()
        fills = [trade for trade in trades if trade[f"{side}_order_id"] == order.id]
        fee = sum((trade["buyer_fee" if order.is_buy else "seller_fee"] for trade in fills), Decimal(0))
        assert sum((trade["size"] for trade in fills), Decimal(0)) == order.filled
        assert (row["filled_size"], row["filled_notional"]) == (order.filled, order.notional)
        assert (row["fee_amount"], fee) == (order.fee, order.fee)


def _rows(database: Database, statement: str, names: Sequence[str]) -> list[dict[str, Any]]:
    with database.read() as connection:
        return connection.execute(statement, {"names": list(names)}).fetchall()
