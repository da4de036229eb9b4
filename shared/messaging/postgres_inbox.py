"""The inbox on a service's own Postgres database: claims, effects and answers in one transaction."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import msgspec
from psycopg import errors

from shared.contracts.message import Message
from shared.db.engine import Database, DatabaseUnavailable
from shared.db.unit_of_work import Conflict, Connection, UnitOfWork
from shared.faults import faults_named
from shared.ids import new_id, uuid_array
from shared.messaging.inbox import InboxTransaction, Malformed, State, Unavailable, as_it_came

T = TypeVar("T")
_TURN_SECONDS = 0.5
Handler: TypeAlias = Callable[[UnitOfWork, Sequence[Message[Any]]], None]


class PostgresInboxStore:
    """`processed_events` and `dead_letters` of one consumer."""

    def __init__(self, database: Database, *, consumer: str, handler: Handler) -> None:
        self._database = database
        self._consumer = consumer
        self._handler = handler
        self._turn = threading.Lock()

    def transaction(self, work: Callable[[InboxTransaction], T]) -> T:
        try:
            with self._in_turn():
                return self._database.run(lambda unit: work(_Transaction(unit, self._consumer, self._handler)))
        except DatabaseUnavailable as error:
            stalled = isinstance(error.__cause__, Conflict | errors.IdleInTransactionSessionTimeout)
            raise Unavailable(self._consumer, stalled=stalled) from error

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Wait for this process's other transaction on the same database, at most `_TURN_SECONDS`.

        They would wait for each other all the same, at a lock of Postgres; but who waits there holds a snapshot, and while one is
        held no row's former versions can be pruned: updates then move to other pages and into every index. Safety is those
        locks' business, so somebody slow is not waited for.
        """
        mine = self._turn.acquire(timeout=_TURN_SECONDS)
        try:
            yield
        finally:
            if mine:
                self._turn.release()


class _Transaction:
    def __init__(self, unit: UnitOfWork, consumer: str, handler: Handler) -> None:
        self._unit = unit
        self._consumer = consumer
        self._handler = handler
        self._blocked: set[str] | None = None
        self.now: datetime = unit.now

    @property
    def _connection(self) -> Connection:
        return self._unit.connection

    def claim(self, ids: Sequence[str], *, single: bool) -> set[str]:
        rows = self._connection.execute(
            _CLAIM_SINGLE if single else _CLAIM, {"consumer": self._consumer, "ids": uuid_array(ids)}
        ).fetchall()
        owned = {row["event_id"] for row in rows if row["event_id"] is not None}
        # Who waited for another claim saw the dead letters of before its commit: they are read again when asked for.
        waited = len(owned) < len(ids)
        self._blocked = None if waited else {row["aggregate_id"] for row in rows if row["aggregate_id"] is not None}
        return owned

    def states(self, ids: Sequence[str]) -> dict[str, State]:
        rows = self._connection.execute(
            "SELECT event_id, state FROM processed_events WHERE consumer = %(consumer)s AND event_id = ANY(%(ids)s::uuid[])",
            {"consumer": self._consumer, "ids": uuid_array(ids)},
        )
        return {row["event_id"]: State(row["state"]) for row in rows}

    def mark_split(self, ids: Sequence[str]) -> None:
        self._connection.execute(
            """INSERT INTO processed_events (consumer, event_id, state)
               SELECT %(consumer)s, id, 'SPLIT' FROM unnest(%(ids)s::uuid[]) AS id ON CONFLICT DO NOTHING""",
            {"consumer": self._consumer, "ids": uuid_array(ids)},
        )

    def finish(self, batch_id: str) -> None:
        self._connection.execute(
            """UPDATE processed_events SET state = 'DONE', processed_at = brokage_now()
                WHERE consumer = %(consumer)s AND event_id = %(id)s""",
            {"consumer": self._consumer, "id": batch_id},
        )

    def count_attempt(self, event_id: str) -> int:
        row = self._connection.execute(
            """INSERT INTO processed_events AS p (consumer, event_id, state, attempts)
               VALUES (%(consumer)s, %(id)s, 'SPLIT', 1)
               ON CONFLICT (consumer, event_id) DO UPDATE SET attempts = p.attempts + 1
               RETURNING attempts""",
            {"consumer": self._consumer, "id": event_id},
        ).fetchone()
        assert row is not None
        attempts: int = row["attempts"]
        return attempts

    def abandoned(self, event_ids: Sequence[str]) -> set[str]:
        rows = self._connection.execute(
            """SELECT event_id FROM processed_events
                WHERE consumer = %(consumer)s AND event_id = ANY(%(ids)s::uuid[]) AND state = 'SPLIT' AND attempts > 0""",
            {"consumer": self._consumer, "ids": uuid_array(event_ids)},
        )
        return {row["event_id"] for row in rows}

    def uncount_attempts(self, event_ids: Sequence[str]) -> None:
        self._connection.execute(
            """UPDATE processed_events SET attempts = greatest(attempts - 1, 0)
                WHERE consumer = %(consumer)s AND event_id = ANY(%(ids)s::uuid[])""",
            {"consumer": self._consumer, "ids": list(event_ids)},
        )

    def blocked(self) -> set[str]:
        if self._blocked is None:
            rows = self._connection.execute(
                "SELECT aggregate_id FROM dead_letters WHERE consumer = %s AND resolved_at IS NULL", (self._consumer,)
            )
            self._blocked = {row["aggregate_id"] for row in rows}
        return self._blocked

    def park(self, message: Message[Any] | Malformed, reason: str) -> None:
        self._dead_letter([message], "PARKED", reason)

    def hold(self, messages: Sequence[Message[Any]]) -> None:
        """Conflict when a person has let an aggregate go since it was found blocked: nothing may wait behind nothing."""
        self._connection.execute("LOCK TABLE dead_letters IN ROW EXCLUSIVE MODE")
        self._blocked = None
        if not {message.aggregate_id for message in messages} <= self.blocked():
            raise Conflict
        self._dead_letter(messages, "HELD", "waits behind a parked event of its aggregate")

    def handle(self, messages: Sequence[Message[Any]]) -> None:
        if messages:
            faults_named("inbox.handling", (message.aggregate_id for message in messages))
            self._handler(self._unit, messages)

    def _dead_letter(self, messages: Sequence[Message[Any] | Malformed], status: str, reason: str) -> None:
        rows = [
            {
                "id": new_id(),
                "event_id": message.event_id,
                "event_type": message.type,
                "aggregate_type": message.aggregate_type,
                "aggregate_id": message.aggregate_id,
                "message": as_it_came(message),
            }
            for message in messages
        ]
        self._connection.execute(
            _DEAD_LETTER,
            {
                "consumer": self._consumer,
                "status": status,
                "reason": reason,
                "rows": msgspec.json.encode(rows).decode(),
            },
        )
        self._blocked = None


# The blocked aggregates ride along with the claim: no round trip of their own, and almost always none.
_BLOCKED = """
    UNION ALL SELECT NULL, aggregate_id FROM dead_letters WHERE consumer = %(consumer)s AND resolved_at IS NULL
"""
_CLAIM = (
    """
    WITH claimed AS (
        INSERT INTO processed_events (consumer, event_id, state, processed_at)
        SELECT %(consumer)s, id, 'DONE', (SELECT brokage_now()) FROM unnest(%(ids)s::uuid[]) AS id
        ON CONFLICT DO NOTHING RETURNING event_id)
    SELECT event_id, NULL AS aggregate_id FROM claimed
"""
    + _BLOCKED
)
_CLAIM_SINGLE = (
    """
    WITH claimed AS (
        INSERT INTO processed_events AS p (consumer, event_id, state)
        SELECT %(consumer)s, id, 'DONE' FROM unnest(%(ids)s::uuid[]) AS id
        ON CONFLICT (consumer, event_id) DO UPDATE SET state = 'DONE', processed_at = brokage_now() WHERE p.state = 'SPLIT'
        RETURNING event_id)
    SELECT event_id, NULL AS aggregate_id FROM claimed
"""
    + _BLOCKED
)
_DEAD_LETTER = """
    INSERT INTO dead_letters (id, consumer, event_id, event_type, aggregate_type, aggregate_id, status, reason, message)
    SELECT id, %(consumer)s, event_id, event_type, aggregate_type, aggregate_id, %(status)s, %(reason)s, message
      FROM json_to_recordset(%(rows)s::json)
        AS row (id uuid, event_id uuid, event_type text, aggregate_type text, aggregate_id text, message jsonb)
    ON CONFLICT (consumer, event_id) DO NOTHING
"""
