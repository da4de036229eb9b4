"""Invariant 7: every saga is ended, rests, or awaits an answer that is not long overdue; and what three services know of an
order goes together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from infra.reconcile.agreement import NEEDS_HUMAN, broken_path, disagreement
from infra.reconcile.check import Check, Examined
from infra.reconcile.rest import Suspect, at_rest, orders_under_way
from infra.reconcile.stores import Stores
from infra.reconcile.streams import Row, side_by_side, stream
from processor.sagas import order_saga, trade_saga
from processor.sagas.order_saga import OrderSagaState


def _go_on(stores: Stores, examined: Examined) -> None:
    _histories(stores, examined)
    at_rest(
        _triples(stores, None, examined),
        examined,
        stores.settings,
        recheck=lambda keys: _triples(stores, keys),
        on_its_way=orders_under_way(stores),
    )
    _trade_sagas(stores, examined)
    _queue(stores, examined)
    at_rest(
        _stuck(stores, None),
        examined,
        stores.settings,
        recheck=lambda keys: _stuck(stores, keys),
    )


# -- histories -----------------------------------------------------------------------------------------------------------


def _histories(stores: Stores, examined: Examined) -> None:
    """An order and its history change in one transaction, so this holds at any instant."""
    with stores.snapshot("order_service") as connection:
        for order_id, (order, history) in side_by_side(stream(connection, _STATUSES), stream(connection, _HISTORY)):
            examined.rows += len(history)
            if not order:
                examined.found(f"order {order_id}", "it has a history, but does not exist")
                continue
            path = [(row["seq"], row["status"]) for row in history]
            reason = broken_path(order[0]["status"], order[0]["version"], path) if path else "it has no history"
            if reason is not None:
                examined.found(f"order {order_id}", reason)


_STATUSES = "SELECT o.id AS key, o.status, o.version FROM all_orders AS o ORDER BY o.id"
_HISTORY = "SELECT h.order_id AS key, h.seq, h.status FROM all_order_history AS h ORDER BY h.order_id, h.seq"


# -- order, reservation, saga --------------------------------------------------------------------------------------------


def _triples(stores: Stores, keys: Sequence[str] | None, examined: Examined | None = None) -> Iterator[Suspect]:
    with stores.snapshots("order_service", "asset_service", "processor") as (orders, assets, processor):
        together = side_by_side(
            stream(orders, _ORDERS, "o.id = ANY(%(keys)s::uuid[])", keys),
            stream(assets, _RESERVATIONS, "r.holder_id = ANY(%(keys)s::uuid[])", keys),
            stream(processor, _ORDER_SAGAS, "s.saga_id = ANY(%(keys)s::uuid[])", keys),
        )
        for order_id, found in together:
            if examined is not None:
                examined.rows += sum(len(rows) for rows in found)
            reason = disagreement(*(rows[0]["status"] if rows else None for rows in found))
            if reason is not None:
                versions = [row["version"] for rows in found for row in rows]
                yield Suspect(order_id, f"order {order_id}", reason, f"{reason} {versions}")


# Of an order that was deleted with its month of the archive others still know how it ended.
_ORDERS = """
    SELECT o.id AS key, o.status, o.version
      FROM (SELECT id, coalesce(final_status, status) AS status, version FROM all_orders
            UNION ALL SELECT order_id, final_status, version FROM deleted_orders) AS o WHERE true /*only*/ ORDER BY o.id
"""
_RESERVATIONS = """
    SELECT r.holder_id AS key, r.status, r.version
      FROM asset_reservations AS r WHERE r.holder_type = 'ORDER' AND r.leg = 'ORDER' /*only*/ ORDER BY r.holder_id
"""
_ORDER_SAGAS = """
    SELECT s.saga_id AS key, s.version,
           CASE s.reason WHEN 'UNKNOWN_ORDER' THEN s.reason ELSE s.current_state END AS status
      FROM saga_instances AS s WHERE s.saga_type = 'ORDER' /*only*/ ORDER BY s.saga_id
"""


# -- trades and their sagas ----------------------------------------------------------------------------------------------


def _trade_sagas(stores: Stores, examined: Examined) -> None:
    """Both are written by one transaction of one service, so this holds at any instant."""
    with stores.snapshot("processor") as connection:
        for trade_id, (trade, saga) in side_by_side(stream(connection, _TRADES), stream(connection, _TRADE_SAGAS)):
            examined.rows += len(saga)
            status = trade[0]["status"] if trade else None
            state = saga[0]["status"] if saga else None
            if (status, state) != ("SETTLING", "NEEDS_HUMAN") and status != state:
                examined.found(f"trade {trade_id}", f"it is {status or 'missing'}, its saga {state or 'missing'}")


_TRADES = "SELECT t.id AS key, t.status FROM trades AS t ORDER BY t.id"
_TRADE_SAGAS = """
    SELECT s.saga_id AS key, s.current_state AS status FROM saga_instances AS s WHERE s.saga_type = 'TRADE' ORDER BY s.saga_id
"""


# -- the matching queue and the sagas of its orders ----------------------------------------------------------------------


def _queue(stores: Stores, examined: Examined) -> None:
    """What may be matched is decided with the saga in one transaction of one service, so this holds at any instant."""
    with stores.snapshot("processor") as connection:
        queued, sagas = stream(connection, _QUEUED), stream(connection, _ORDER_SAGAS)
        for order_id, (queue, saga) in side_by_side(queued, sagas):
            examined.rows += len(queue)
            reason = misqueued(queue[0] if queue else None, saga[0]["status"] if saga else None)
            if reason is not None:
                examined.found(f"order {order_id}", reason)


_QUEUED = "SELECT q.id AS key, q.on_book, q.remaining_size FROM matching_queue AS q ORDER BY q.id"


def misqueued(queued: Row | None, saga: str | None) -> str | None:
    """What is wrong between an order's row in the matching queue and its saga: only one that rests may be matched, what is
    left of one that rests must be, and no ended one is queued."""
    if saga == NEEDS_HUMAN:
        return None
    if queued is None:
        return f"its saga is {saga}, but it is not in the queue" if saga in order_saga.RESTING else None
    if saga is None or saga in order_saga.ENDED:
        return f"it is still in the queue, its saga {saga or 'missing'}"
    matchable = saga == OrderSagaState.RESTING and queued["remaining_size"] > 0
    if queued["on_book"] != matchable:
        return f"it is {'on' if queued['on_book'] else 'off'} the book, its saga {saga}"
    return None


# -- sagas that go nowhere -----------------------------------------------------------------------------------------------


def _stuck(stores: Stores, keys: Sequence[str] | None) -> Iterator[Suspect]:
    silent: dict[str, Any] = {
        "order_silent": [str(state) for state in order_saga.ENDED | order_saga.RESTING],
        "trade_silent": [str(state) for state in trade_saga.ENDED],
        "overdue": stores.settings.overdue_seconds,
    }
    with stores.snapshot("processor") as connection:
        for row in stream(connection, _STUCK, "s.saga_id = ANY(%(keys)s::uuid[])", keys, **silent):
            yield Suspect(
                row["key"],
                f"{row['saga_type'].lower()} saga {row['key']}",
                f"it is {row['current_state']}: {row['trouble']}",
                f"{row['current_state']} {row['version']} {row['trouble']}",
            )


# A deadline counts once the command has arrived: until then the batch that carries it is what is late (invariant 8).
_STUCK = """
    SELECT s.saga_id AS key, s.saga_type, s.current_state, s.version, troubles.trouble
      FROM saga_instances AS s
      LEFT JOIN outbox_events AS o ON o.id = s.awaiting_batch_id
     CROSS JOIN LATERAL (SELECT CASE
           WHEN s.current_state = 'NEEDS_HUMAN' THEN coalesce(s.reason, 'a person must decide')
           WHEN s.awaiting = (s.current_state = ANY(CASE s.saga_type WHEN 'ORDER' THEN %(order_silent)s::text[]
                                                    ELSE %(trade_silent)s::text[] END))
             THEN CASE WHEN s.awaiting THEN 'it still awaits an answer' ELSE 'nobody waits for its answer' END
           WHEN s.deadline_at < brokage_now() - make_interval(secs => %(overdue)s)
             AND (o.id IS NULL OR o.acked_at < brokage_now() - make_interval(secs => %(overdue)s))
             THEN 'its answer is long overdue' END AS trouble) AS troubles
     WHERE troubles.trouble IS NOT NULL /*only*/ ORDER BY s.saga_id
"""

CHECKS = (Check(7, "every saga is ended, rests or awaits an answer; order, reservation, saga agree", _go_on),)
