"""Stores that were restored to different moments: what does not go together, and what of it can be healed.

A reader that is older than a source lacks batches that the source calls acknowledged: they go again, as long as the outbox still
has them (24 hours). A reader that is newer has receipts of batches that nobody has sent: they are forgotten, for their ids never
come again. What only the audit trail still has, customers are told from there. Orders that order_service does not know leave the
book, and their reservations and sagas end; a cancel that it has forgotten, it is told of. Ids of customers whom customer_service
does not know are never given to somebody else. What has moved money cannot be undone here: it is named for a person.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from infra.backup import retelling
from infra.reconcile.check import Examined
from infra.reconcile.messages import differences
from infra.reconcile.stores import MONGO, POSTGRES, Stores
from infra.reconcile.streams import chunks, stream
from shared.contracts.orders import ORDER
from shared.contracts.trades import TRADE
from shared.db import Connection, UnitOfWork

_AT_ONCE = 500
_PROJECTIONS = ("order_service", "asset_service", "processor")
_OPENING = frozenset({"OrderCreated", "OrderCancelRequested"})
"""Messages about an order that the processor takes although it does not know the order's saga."""


@dataclass(slots=True)
class Findings:
    """`unprocessed` and `unsent`: (reader, id). `untold`: ids of events. `unknown_orders`: customer by order. `for_a_person`: in
    words."""

    unprocessed: list[tuple[str, str]] = field(default_factory=list)
    unsent: list[tuple[str, str]] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    unknown_orders: dict[str, int] = field(default_factory=dict)
    forgotten_cancels: list[str] = field(default_factory=list)
    unknown_customers: list[int] = field(default_factory=list)
    for_a_person: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        messages = len(self.unprocessed) + len(self.unsent) + len(self.untold)
        return messages + len(self.unknown_orders) + len(self.forgotten_cancels) + len(self.unknown_customers)


def find(stores: Stores) -> Findings:
    """Look at all stores; changes nothing, and may run beside the traffic."""
    found = Findings()
    for difference in differences(stores, Examined(0)):
        if difference.what == "not processed":
            found.unprocessed.append((difference.reader, difference.id))
        elif difference.what == "sent by nobody":
            found.unsent.append((difference.reader, difference.id))
    found.untold = list(retelling.find(stores))
    found.unknown_orders = _unknown_orders(stores)
    found.forgotten_cancels = list(_forgotten_cancels(stores))
    found.unknown_customers = _unknown_customers(stores)
    found.for_a_person = list(_trades_of_unknown_orders(stores))
    found.for_a_person += [f"customer {id} is not known to customer_service" for id in found.unknown_customers]
    return found


# -- unknown orders ------------------------------------------------------------------------------------------------------


def _unknown_orders(stores: Stores) -> dict[str, int]:
    """Orders that the processor or asset_service still carries on and order_service does not know. An order is committed there
    before anybody else hears of it, so the others are read first."""
    unknown: dict[str, int] = {}
    for service, statement in (("processor", _SAGAS), ("asset_service", _RESERVATIONS)):
        with stores.snapshot(service) as connection:
            for chunk in chunks(stream(connection, statement), _AT_ONCE):
                known = _known_orders(stores, [row["key"] for row in chunk])
                unknown |= {row["key"]: row["customer_id"] for row in chunk if row["key"] not in known}
    with stores.snapshot("processor") as connection:
        ended = connection.execute(_ENDED_AS_UNKNOWN, {"ids": list(unknown)}).fetchall()
    for row in ended:  # a release of theirs is on its way
        del unknown[row["saga_id"]]
    return unknown


def _known_orders(stores: Stores, ids: Sequence[str]) -> set[str]:
    with stores.snapshot("order_service") as connection:
        return {row["id"] for row in connection.execute(_KNOWN, {"ids": list(ids)})}


_KNOWN = """
    SELECT id FROM all_orders WHERE id = ANY(%(ids)s::uuid[])
     UNION ALL SELECT order_id FROM deleted_orders WHERE order_id = ANY(%(ids)s::uuid[])
"""
_SAGAS = """
    SELECT s.saga_id AS key, (s.payload ->> 'customer_id')::bigint AS customer_id
      FROM saga_instances AS s WHERE s.saga_type = 'ORDER' AND s.reason IS DISTINCT FROM 'UNKNOWN_ORDER' ORDER BY s.saga_id
"""
_ENDED_AS_UNKNOWN = """
    SELECT s.saga_id FROM saga_instances AS s WHERE s.saga_id = ANY(%(ids)s::uuid[]) AND s.reason = 'UNKNOWN_ORDER'
"""
_RESERVATIONS = """
    SELECT r.holder_id AS key, r.customer_id FROM asset_reservations AS r
     WHERE r.holder_type = 'ORDER' AND r.status = 'ACTIVE' ORDER BY r.holder_id
"""


def _forgotten_cancels(stores: Stores) -> Iterator[str]:
    """Orders that the processor is canceling, or has canceled, and order_service has open: it committed the request first, so this
    is never the case otherwise."""
    with stores.snapshot("processor") as processor:
        for chunk in chunks(stream(processor, _CANCELING), _AT_ONCE):
            with stores.snapshot("order_service") as orders:
                ids = {"ids": [row["key"] for row in chunk]}
                yield from (row["id"] for row in orders.execute(_OPEN, ids))


_CANCELING = """
    SELECT s.saga_id AS key FROM saga_instances AS s
     WHERE s.saga_type = 'ORDER' AND s.current_state IN ('CLOSING', 'CANCELING', 'CANCELED') ORDER BY s.saga_id
"""
_OPEN = """
    SELECT o.id FROM orders AS o WHERE o.id = ANY(%(ids)s::uuid[])
       AND o.status IN ('PENDING_RESERVATION', 'ASSET_RESERVED', 'ORDER_CONFIRMED', 'PARTIALLY_MATCHED')
"""


def _trades_of_unknown_orders(stores: Stores) -> Iterator[str]:
    """Money has moved for an order that is gone: no program can say whether the customer still wants it."""
    with stores.snapshot("processor") as connection:
        for chunk in chunks(stream(connection, _TRADES), _AT_ONCE):
            ids = {row[side] for row in chunk for side in ("buy_order_id", "sell_order_id") if row[side]}
            known = _known_orders(stores, sorted(ids))
            for row in chunk:
                gone = [row[side] for side in ("buy_order_id", "sell_order_id") if row[side] and row[side] not in known]
                if gone:
                    yield f"trade {row['key']} is {row['status']}, but order_service does not know order {gone[0]}"


_TRADES = """
    SELECT t.id AS key, t.status, t.buy_order_id, t.sell_order_id FROM trades AS t WHERE t.status <> 'BUSTED' ORDER BY t.id
"""


# -- unknown customers ---------------------------------------------------------------------------------------------------


def _unknown_customers(stores: Stores) -> list[int]:
    known_elsewhere: set[int] = set()
    for service in _PROJECTIONS:
        with stores.snapshot(service) as connection:
            known_elsewhere |= {row["customer_id"] for row in connection.execute("SELECT customer_id FROM principals")}
    with stores.snapshot("customer_service") as connection:
        known = {row["id"] for row in connection.execute("SELECT id FROM customers")}
    return sorted(known_elsewhere - known)


def _keep_ids(uow: UnitOfWork, highest: int) -> None:
    uow.connection.execute(
        "SELECT setval(name, greatest(%s, nextval(name))) FROM pg_get_serial_sequence('customers', 'id') AS name",
        (highest,),
    )


# -- heal ----------------------------------------------------------------------------------------------------------------


def heal(stores: Stores, found: Findings) -> list[str]:
    """Heal what can be healed; in words what could not.

    Relays and workers carry out the rest: the messages that this sends again.
    """
    # Services by name: infra imports them only when it uses them.
    left = list(found.for_a_person)
    if found.unknown_customers:
        stores.database("customer_service").run(lambda uow: _keep_ids(uow, found.unknown_customers[-1]))
    canceling = importlib.import_module("order_service.service.canceling")
    for order_id in found.forgotten_cancels:
        stores.database("order_service").run(lambda uow, order_id=order_id: canceling.cancel_order(uow, order_id))  # type: ignore[misc]
    replay(stores, found)
    _forget_unsent(stores, found)
    left += _end_unknown_orders(stores, found)
    if found.count:
        _republish(stores)
    retelling.say_again(stores, found.untold)
    return left


def replay(stores: Stores, found: Findings) -> list[str]:
    """Let batches that their reader lacks go again; what they say of things the reader cannot know counts as done. Returns those
    that go."""
    going: list[str] = []
    for reader in (*POSTGRES, *MONGO):
        ids = [id for each, id in found.unprocessed if each == reader]
        for chunk in chunks(ids, _AT_ONCE):
            for source in POSTGRES:
                batches = _batches(stores, source, chunk)
                moot = _moot(stores, reader, batches)
                _note_moot(stores, reader, batches, moot)
                again = [id for id, events in batches.items() if any(event["event_id"] not in moot for event in events)]
                stores.database(source).run(lambda uow, again=again: _send_again(uow, again))  # type: ignore[misc]
                going += again
    return going


def _batches(stores: Stores, source: str, ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    with stores.snapshot(source) as connection:
        rows = connection.execute(
            "SELECT id, payload::text AS payload FROM outbox_events WHERE id = ANY(%s::uuid[])", (list(ids),)
        ).fetchall()
    return {row["id"]: msgspec.json.decode(row["payload"]) for row in rows}


def _send_again(uow: UnitOfWork, ids: Sequence[str]) -> None:
    uow.connection.execute(
        "UPDATE outbox_events SET status = 'PENDING', acked_at = NULL, published_at = NULL, lease_until = NULL, retry_count = 0"
        " WHERE id = ANY(%s::uuid[]) AND acked_at IS NOT NULL",
        (list(ids),),
    )


def _moot(stores: Stores, reader: str, batches: dict[str, list[dict[str, Any]]]) -> set[str]:
    """Events about orders and sagas that the reader does not know, and cannot learn of from them."""
    events = [event for batch in batches.values() for event in batch]
    if reader == "order_service":
        about = [event for event in events if event["aggregate_type"] == ORDER]
        known = _known_orders(stores, [event["aggregate_id"] for event in about])
    elif reader == "processor":
        about = [each for each in events if each["aggregate_type"] in (ORDER, TRADE) and each["type"] not in _OPENING]
        with stores.snapshot("processor") as connection:
            known = _known_sagas(connection, [event["aggregate_id"] for event in about])
    else:
        return set()
    return {event["event_id"] for event in about if event["aggregate_id"] not in known}


def _known_sagas(connection: Connection, ids: Sequence[str]) -> set[str]:
    rows = connection.execute("SELECT saga_id FROM saga_instances WHERE saga_id = ANY(%s::uuid[])", (list(ids),))
    return {row["saga_id"] for row in rows}


def _note_moot(stores: Stores, reader: str, batches: dict[str, list[dict[str, Any]]], moot: set[str]) -> None:
    """Write receipts for them; their batch is taken event by event then."""
    rows = []
    for id, events in batches.items():
        done = [event["event_id"] for event in events if event["event_id"] in moot]
        if done:
            rows.append({"event_id": id, "state": "DONE" if len(done) == len(events) else "SPLIT"})
            rows += [{"event_id": event_id, "state": "DONE"} for event_id in done]
    if rows:
        stores.database(reader).run(lambda uow: _write_receipts(uow, reader, rows))


def _write_receipts(uow: UnitOfWork, reader: str, rows: Sequence[dict[str, str]]) -> None:
    uow.connection.execute(
        "INSERT INTO processed_events (consumer, event_id, state) SELECT %(reader)s, event_id, state"
        " FROM jsonb_to_recordset(%(rows)s::jsonb) AS row (event_id uuid, state text) ON CONFLICT DO NOTHING",
        {"reader": reader, "rows": msgspec.json.encode(rows).decode()},
    )


def _forget_unsent(stores: Stores, found: Findings) -> None:
    for reader in (*POSTGRES, *MONGO):
        ids = [id for each, id in found.unsent if each == reader]
        for chunk in chunks(ids, _AT_ONCE):
            if reader in MONGO:
                documents = stores.documents(reader)
                with documents.reachable():
                    documents["processed_events"].delete_many({"_id": {"$in": chunk}, "consumer": reader})
            else:
                stores.database(reader).run(
                    lambda uow, reader=reader, chunk=chunk: uow.connection.execute(  # type: ignore[misc]
                        "DELETE FROM processed_events WHERE consumer = %s AND event_id = ANY(%s::uuid[])",
                        (reader, chunk),
                    )
                )


def _end_unknown_orders(stores: Stores, found: Findings) -> list[str]:
    left = []
    repair = importlib.import_module("processor.service.repair")
    for order_id, customer_id in found.unknown_orders.items():
        ended = stores.database("processor").run(
            lambda uow, order_id=order_id, customer_id=customer_id: repair.end_saga_of_unknown_order(  # type: ignore[misc]
                uow, order_id, customer_id
            )
        )
        if not ended:
            left.append(f"order {order_id} is unknown, and a trade of it is not settled yet; repair once more then")
    return left


def _republish(stores: Stores) -> None:
    customers = importlib.import_module("customer_service.service.customers")
    instruments = importlib.import_module("asset_service.service.instruments")
    stores.database("asset_service").run(instruments.republish)
    customers.republish(stores.database("customer_service"))
