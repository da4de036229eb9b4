"""Invariant 6: every trade is settled on both sides or busted, and orders are filled by what was settled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from asset_service.ledger import Leg, customer_account, post, system_account
from asset_service.states import AccountClass
from infra.reconcile.check import Check, Examined
from infra.reconcile.rest import Suspect, at_rest, orders_under_way
from infra.reconcile.stores import Stores
from infra.reconcile.streams import Row, side_by_side, stream
from shared import money
from shared.money import ZERO, text


def _is_settled(stores: Stores, examined: Examined) -> None:
    for suspects in (_trades, _fills):
        at_rest(
            suspects(stores, None, examined),
            examined,
            stores.settings,
            recheck=lambda keys, suspects=suspects: suspects(stores, keys),  # type: ignore[misc]
            on_its_way=orders_under_way(stores),
        )


# -- trades and the ledger -----------------------------------------------------------------------------------------------


def _trades(stores: Stores, keys: Sequence[str] | None, examined: Examined | None = None) -> Iterator[Suspect]:
    with stores.snapshots("processor", "asset_service") as (processor, assets):
        together = side_by_side(
            stream(processor, _TRADES, "t.id = ANY(%(keys)s::uuid[])", keys),
            stream(assets, _LEGS, "t.tx_ref IN (SELECT 'trade:' || key FROM unnest(%(keys)s::text[]) AS key)", keys),
        )
        for trade_id, (trade, legs) in together:
            if examined is not None:
                examined.rows += len(trade) + len(legs)
            reason = unsettled(trade[0] if trade else None, legs)
            if reason is not None:
                evidence = f"{reason} {trade[0]['status'] if trade else ''} {len(legs)}"
                yield Suspect(trade_id, f"trade {trade_id}", reason, evidence)


_TRADES = """
    SELECT t.id AS key, t.status, t.asset_name, t.quote_asset, t.buyer_id, t.seller_id, t.size, t.price,
           coalesce(t.buyer_fee, 0) AS buyer_fee, coalesce(t.seller_fee, 0) AS seller_fee
      FROM trades AS t WHERE true /*only*/ ORDER BY t.id
"""
_LEGS = """
    SELECT substr(t.tx_ref, 7) AS key, e.account_id, e.asset_name, e.amount
      FROM ledger_transactions AS t LEFT JOIN ledger_entries AS e ON e.tx_ref = t.tx_ref
     WHERE starts_with(t.tx_ref, 'trade:') /*only*/ ORDER BY t.tx_ref COLLATE "C"
"""


def unsettled(trade: Row | None, entries: Sequence[Row]) -> str | None:
    """What is wrong between a trade and its entries in the ledger. While it is SETTLING its saga awaits the answer."""
    if trade is None:
        return "the ledger has settled a trade that was never made"
    status = trade["status"]
    if status == "BUSTED":
        return "it is BUSTED, but the ledger has settled it" if entries else None
    if status != "SETTLED":
        return None
    if not entries:
        return "it is SETTLED, but the ledger knows nothing of it"
    booked = sorted((row["account_id"], row["asset_name"], row["amount"]) for row in entries)
    if booked != expected_legs(trade):
        return f"its legs in the ledger are not those of {text(trade['size'])} at {text(trade['price'])}"
    return None


def expected_legs(trade: Row) -> list[tuple[str, str, Decimal]]:
    """Cash and asset from one side to the other, and the fees; in order. Source: contract, Ledger and Fees."""
    asset, quote, size = trade["asset_name"], trade["quote_asset"], trade["size"]
    notional = money.multiply(size, trade["price"])
    buyer_fee, seller_fee = trade["buyer_fee"], trade["seller_fee"]

    def account(customer_id: int | None, asset_name: str) -> str:
        if customer_id is None:
            return system_account(AccountClass.HOUSE, asset_name)
        return customer_account(customer_id, asset_name)

    legs = [
        Leg(account(trade["buyer_id"], quote), quote, money.EXACT.minus(money.EXACT.add(notional, buyer_fee))),
        Leg(account(trade["seller_id"], quote), quote, money.EXACT.subtract(notional, seller_fee)),
        Leg(system_account(AccountClass.FEE, quote), quote, money.EXACT.add(buyer_fee, seller_fee)),
        Leg(account(trade["buyer_id"], asset), asset, size),
        Leg(account(trade["seller_id"], asset), asset, money.EXACT.minus(size)),
    ]
    return sorted(post("", "", "", "", legs).legs)


# -- fills and orders ----------------------------------------------------------------------------------------------------


def _fills(stores: Stores, keys: Sequence[str] | None, examined: Examined | None = None) -> Iterator[Suspect]:
    with stores.snapshots("order_service", "processor") as (orders, processor):
        together = side_by_side(
            stream(orders, _ORDERS, "o.id = ANY(%(keys)s::uuid[])", keys),
            stream(processor, _FILLS, "f.order_id = ANY(%(keys)s::uuid[])", keys),
            stream(processor, _QUEUE, "q.id = ANY(%(keys)s::uuid[])", keys),
        )
        for order_id, (order, fills, queued) in together:
            if examined is not None:
                examined.rows += len(order) + len(fills) + len(queued)
            reason = misfilled(
                order[0] if order else None, fills[0] if fills else _NO_FILLS, queued[0] if queued else None
            )
            if reason is not None:
                versions = [row["version"] for row in (*order, *queued)]
                yield Suspect(order_id, f"order {order_id}", reason, f"{reason} {versions}")


_NO_FILLS: Row = {"filled_size": ZERO, "filled_notional": ZERO, "fee_amount": ZERO, "settling_size": ZERO}
# One that was deleted with its month of the archive has no `size`.
_ORDERS = """
    SELECT o.id AS key, o.version, o.size, o.price, o.filled_size, o.filled_notional, o.fee_amount
      FROM (SELECT id, version, size, price, filled_size, filled_notional, fee_amount FROM all_orders
            UNION ALL SELECT order_id, version, NULL, NULL, NULL, NULL, NULL FROM deleted_orders) AS o
     WHERE true /*only*/ ORDER BY o.id
"""
_FILLS = """
    SELECT f.order_id AS key,
           coalesce(sum(f.size) FILTER (WHERE f.status = 'SETTLED'), 0) AS filled_size,
           coalesce(sum(f.size * f.price) FILTER (WHERE f.status = 'SETTLED'), 0) AS filled_notional,
           coalesce(sum(f.fee) FILTER (WHERE f.status = 'SETTLED'), 0) AS fee_amount,
           coalesce(sum(f.size) FILTER (WHERE f.status = 'SETTLING'), 0) AS settling_size
      FROM (SELECT buy_order_id AS order_id, size, price, buyer_fee AS fee, status FROM trades
            UNION ALL SELECT sell_order_id, size, price, seller_fee, status FROM trades) AS f
     WHERE f.order_id IS NOT NULL /*only*/ GROUP BY f.order_id ORDER BY f.order_id
"""
_QUEUE = """
    SELECT q.id AS key, q.version, q.size, q.price, q.filled_size, q.filled_notional, q.fee_amount,
           q.in_settlement_size AS settling_size
      FROM matching_queue AS q WHERE true /*only*/ ORDER BY q.id
"""
_TOTALS = ("filled_size", "filled_notional", "fee_amount")


def misfilled(order: Row | None, fills: Row, queued: Row | None) -> str | None:
    """What is wrong between an order, the sums of its trades, and its row in the matching queue."""
    if order is None:
        return "it is traded or queued, but does not exist"
    if order["size"] is None:
        return "it is queued, but was deleted" if queued else None
    if fills["filled_size"] > order["size"]:
        return f"its fills sum to {text(fills['filled_size'])}, more than its size {text(order['size'])}"
    for name in _TOTALS:
        if order[name] != fills[name]:
            return f"its {name} is {text(order[name])}, its settled trades say {text(fills[name])}"
    if queued is None:
        return None
    for name in (*_TOTALS, "settling_size"):
        if queued[name] != fills[name]:
            return f"its {name} in the queue is {text(queued[name])}, its trades say {text(fills[name])}"
    for name in ("size", "price"):
        if queued[name] != order[name]:
            return f"its {name} is {text(order[name])}, in the queue {text(queued[name])}"
    return None


CHECKS = (Check(6, "every trade is settled on both sides or busted; fills are what was settled", _is_settled),)
