"""A long past by bulk load: copies of the orders that were traded, with their histories and one audit record each.

Reads are measured on it, and rounds beside it. It has no reservations, trades or ledger, and its records are no part of the chain,
so no proof would accept it: it comes after the proof, and the system ends behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pymongo import MongoClient

from auditor.documents import LOGS
from auditor.documents import NAME as AUDITOR
from infra.bench.system import BenchSystem
from infra.reconcile.streams import chunks
from infra.servers.postgres import DATABASES
from order_service.models import order_history, orders

_ORIGINALS = 20_000
_RECORDS_AT_ONCE = 2_000
_COPIES_MAX = 0x7FFF


def fill(system: BenchSystem, target: int) -> None:
    """Copy the first orders again and again, each time an hour further back, until there are `target` or a few more."""
    client: MongoClient[dict[str, Any]] = MongoClient(system.environment["BROKAGE_MONGO_URL"])
    try:
        logs = client[AUDITOR][LOGS]
        first = logs.find({"action": "OrderCreated"}).sort("seq", 1).limit(4 * _ORIGINALS)
        records = [each for each in first if may_be_copied(each["entity_id"]) and may_be_copied(each["event_id"])]
        records = records[:_ORIGINALS]
        copies = _copy_orders(system, [record["entity_id"] for record in records], target)
        for chunk in chunks(_copied(records, copies), _RECORDS_AT_ONCE):
            logs.insert_many(chunk, ordered=False)
    finally:
        client.close()


def _copy_orders(system: BenchSystem, ids: Sequence[str], target: int) -> int:
    """How often these were copied."""
    with system.connect(DATABASES["order_service"][0]) as connection:
        row = connection.execute("SELECT count(*) FROM orders").fetchone()
        assert row
        copies: int = -(-(target - row[0]) // len(ids))
        assert copies <= _COPIES_MAX
        for copy in range(1, copies + 1):
            for table, key in ((orders, "id"), (order_history, "order_id")):
                connection.execute(_copy_statement(table, key), {"copy": f"{copy:04x}", "hours": copy, "ids": ids})
        connection.execute("VACUUM ANALYZE orders, order_history")
    return copies


def _copy_statement(table: Any, key: str) -> bytes:
    """Four of the random digits of each id are the copy's number, the same ones in every table."""
    changed = {
        key: f"overlay(t.{key}::text PLACING %(copy)s FROM 25)::uuid",
        "event_id": "overlay(t.event_id::text PLACING %(copy)s FROM 25)::uuid",
        "created_at": "t.created_at - make_interval(hours => %(hours)s)",
        "client_order_id": "NULL",
    }
    names = [column.name for column in table.columns]
    values = ", ".join(changed.get(name, f"t.{name}") for name in names)
    statement = f"INSERT INTO {table.name} ({', '.join(names)}) SELECT {values} FROM {table.name} AS t"
    return f"{statement} WHERE t.{key} = ANY(%(ids)s::uuid[])".encode()


def _copied(originals: list[dict[str, Any]], copies: int) -> Iterator[dict[str, Any]]:
    """Numbered downwards from zero: the auditor goes on at the other end."""
    seq = 0
    for copy in range(1, copies + 1):
        for record in originals:
            seq -= 1
            event_id, entity_id = copy_of(record["event_id"], copy), copy_of(record["entity_id"], copy)
            yield {**record, "_id": event_id, "event_id": event_id, "entity_id": entity_id, "seq": seq}


def may_be_copied(id: str) -> bool:
    """Whether no copy of it is itself: its own digits are a number that no copy has."""
    return int(id[24:28], 16) > _COPIES_MAX


def copy_of(id: str, copy: int) -> str:
    return f"{id[:24]}{copy:04x}{id[28:]}"
