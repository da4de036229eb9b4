"""How rows travel: one JSON text each way in, so that a statement costs the same round trip for one row and for five
hundred."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from shared.contracts.message import partition_of
from shared.db import Conflict, Connection

Row = dict[str, Any]

PARTITIONS = 16
PARTITION_LOCK = 7101


def as_json(rows: Any) -> str:
    return msgspec.json.encode(rows).decode()


def lock_partitions(connection: Connection, customer_ids: Iterable[int]) -> None:
    """Be the only writer of these customers' balances until the transaction ends. In ascending order, so that two
    batches wait for each other and never deadlock."""
    partitions = sorted({partition_of(str(customer_id)) % PARTITIONS for customer_id in customer_ids})
    if partitions:
        connection.execute(
            "SELECT pg_advisory_xact_lock(%(kind)s, p) FROM unnest(%(partitions)s::int[]) AS p",
            {"kind": PARTITION_LOCK, "partitions": partitions},
        )


def check_count(written: int, wanted: int) -> None:
    if written != wanted:
        raise Conflict(f"{wanted - written} of {wanted} rows are not as they were loaded")


def as_list(customer_ids: Sequence[int] | None) -> list[int] | None:
    return None if customer_ids is None else list(customer_ids)


def where(conditions: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """Only the conditions whose value is given: each combination gets a plan of its own."""
    given = [sql for name, sql in conditions.items() if values[name] is not None]
    return "WHERE " + " AND ".join(given) if given else ""


def has_principals(connection: Connection) -> bool:
    """Whether the projection of customers has been filled at all."""
    return connection.execute("SELECT 1 FROM principals LIMIT 1").fetchone() is not None
