"""Invariant 5: an open order has exactly one active reservation, of exactly what is left; a final order has none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from infra.reconcile.check import Check, Examined
from infra.reconcile.rest import Suspect, at_rest, orders_under_way
from infra.reconcile.stores import Stores
from infra.reconcile.streams import Row, side_by_side, stream
from shared import money
from shared.money import text

_NOT_YET = frozenset({"PENDING_RESERVATION", "ASSET_RESERVED"})
_FINAL = frozenset({"MATCHED", "CANCELED", "EXPIRED", "REJECTED"})


def _is_covered(stores: Stores, examined: Examined) -> None:
    at_rest(
        _suspects(stores, None, examined),
        examined,
        stores.settings,
        recheck=lambda keys: _suspects(stores, keys),
        on_its_way=orders_under_way(stores),
    )


def _suspects(stores: Stores, keys: Sequence[str] | None, examined: Examined | None = None) -> Iterator[Suspect]:
    with stores.snapshots("order_service", "asset_service") as (orders, assets):
        together = side_by_side(
            stream(orders, _ORDERS, "o.id = ANY(%(keys)s::uuid[])", keys),
            stream(assets, _RESERVATIONS, "r.holder_id = ANY(%(keys)s::uuid[])", keys),
        )
        for order_id, (order, reservations) in together:
            if examined is not None:
                examined.rows += len(order) + len(reservations)
            reason = uncovered(order[0] if order else None, reservations)
            if reason is not None:
                seen = [f"{row['status']} {row['version']}" for row in (*order, *reservations)]
                yield Suspect(order_id, f"order {order_id}", reason, f"{reason} {seen}")


# The order's `status` is that which it keeps when it is archived.
_ORDERS = """
    SELECT o.id AS key, coalesce(o.final_status, o.status) AS status, o.version, o.order_side, o.size, o.price,
           o.filled_size, o.filled_notional, o.fee_rate, o.fee_minimum, o.quote_scale, o.asset_name, o.quote_asset
      FROM all_orders AS o WHERE true /*only*/ ORDER BY o.id
"""
_RESERVATIONS = """
    SELECT r.holder_id AS key, r.status, r.version, r.asset_name, r.remaining
      FROM asset_reservations AS r WHERE r.holder_type = 'ORDER' AND r.status = 'ACTIVE' /*only*/ ORDER BY r.holder_id
"""


def uncovered(order: Row | None, active: Sequence[Row]) -> str | None:
    """What is wrong between an order and its active reservations."""
    if order is None:
        return "a reservation is active for an order that does not exist"
    status = order["status"]
    if status in _FINAL:
        return f"it is {status}, but a reservation is active" if active else None
    if status in _NOT_YET:
        return None  # nobody has said yet that there is a reservation; its saga says what may be (invariant 7)
    if len(active) != 1:
        return f"it is {status} with {len(active)} active reservations"
    asset_name, needed = required(order)
    found = active[0]
    if found["asset_name"] != asset_name or found["remaining"] != needed:
        return f"it needs {text(needed)} {asset_name}, reserved is {text(found['remaining'])} {found['asset_name']}"
    return None


def required(order: Row) -> tuple[str, Decimal]:
    """What the unfilled part of an order may still cost: of which asset and how much. Source: contract, Fees."""
    left = money.EXACT.subtract(order["size"], order["filled_size"])
    if order["order_side"] == "SELL":
        return order["asset_name"], left
    notional = money.multiply(left, order["price"])
    terms = {"rate": order["fee_rate"], "minimum": order["fee_minimum"], "scale": order["quote_scale"]}
    filled = order["filled_notional"]
    fee_in_the_end = money.fee(money.EXACT.add(filled, notional), **terms)
    fee_still_due = money.EXACT.subtract(fee_in_the_end, money.fee(filled, **terms))
    return order["quote_asset"], money.EXACT.add(notional, fee_still_due)


CHECKS = (Check(5, "an open order has one active reservation of what is left, a final one none", _is_covered),)
