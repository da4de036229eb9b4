"""What a person does about dead letters: look at them, and let them go through the handler again.

An aggregate with an open letter is blocked; its later events are held behind it. So a requeue takes all of its open letters, in
their order, and the aggregate is free once they have had their effect.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

from shared.contracts.message import Message, decode_messages
from shared.contracts.system import AdminActed
from shared.db.engine import Database, DatabaseUnavailable, is_refusal, is_transient
from shared.db.unit_of_work import Connection, Context, UnitOfWork
from shared.errors import Conflict, NotFound
from shared.faults import fault
from shared.messaging.postgres_inbox import Handler

Row: TypeAlias = dict[str, Any]
EVENTS_MAX = 500
"""How many events a handler gets at once."""


class DeadLetterFailedAgain(Conflict):
    """The event failed again when it was requeued, or one that was held behind it did. Nothing has changed: repair what it
    stumbles over, then requeue it once more."""

    code = "dead-letter-failed-again"
    title = "Dead letter failed again"

    def __init__(self, event_id: str, error: Exception) -> None:
        """Only the kind of `error` is told; what it says may hold anything, and is in the log."""
        super().__init__(f"It failed again: {type(error).__name__}.", event_id=event_id)


class DeadLetters(Protocol):
    """The open letters of one service. A row has id, event_id, event_type, aggregate_type, aggregate_id, status, reason, message
    (decoded JSON), created_at."""

    def list_open(self, *, after: str | None, limit: int) -> list[Row]:
        """PARKED and HELD ones, the oldest first, after the id of the last one seen."""

    def show(self, letter_id: str) -> tuple[Row, list[Row]]:
        """A letter, and the open ones that go with it when it is requeued: those of its aggregate, in order, at most `EVENTS_MAX`.

        Raises:
            NotFound: there is none.
        """

    def requeue(self, letter_id: str, context: Context) -> Row:
        """Let the letter and the other open ones of its aggregate go through the handler; one that went already stays as it is.

        Raises:
            NotFound: there is none. DeadLetterFailedAgain: nothing has changed.
        """


class PostgresDeadLetters:
    """Those in a service's own database. `handler` None: the service reads no messages, and so has none."""

    def __init__(self, database: Database, *, consumer: str, handler: Handler | None) -> None:
        self._database = database
        self._consumer = consumer
        self._handler = handler

    def list_open(self, *, after: str | None, limit: int) -> list[Row]:
        with self._database.read() as connection:
            return connection.execute(
                """SELECT * FROM dead_letters
                    WHERE consumer = %(consumer)s AND resolved_at IS NULL
                      AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
                    ORDER BY id LIMIT %(limit)s""",
                {"consumer": self._consumer, "after": after, "limit": limit},
            ).fetchall()

    def show(self, letter_id: str) -> tuple[Row, list[Row]]:
        with self._database.read() as connection:
            letter = self._find(connection, letter_id)
            if letter is None:
                raise NotFound()
            open_ones = connection.execute(
                """SELECT * FROM dead_letters
                    WHERE consumer = %(consumer)s AND aggregate_id = %(aggregate_id)s AND resolved_at IS NULL
                    ORDER BY position LIMIT %(limit)s""",
                {"consumer": self._consumer, "aggregate_id": letter["aggregate_id"], "limit": EVENTS_MAX},
            ).fetchall()
            return letter, open_ones

    def requeue(self, letter_id: str, context: Context) -> Row:
        return self._database.run(lambda unit: self._requeue(unit, letter_id), context=context)

    def _requeue(self, unit: UnitOfWork, letter_id: str) -> Row:
        connection = unit.connection
        # Until the commit nobody holds another event back: it would stay behind when its aggregate is free already.
        connection.execute("LOCK TABLE dead_letters IN SHARE ROW EXCLUSIVE MODE")
        letter = self._find(connection, letter_id)
        if letter is None or self._handler is None:
            raise NotFound()
        if letter["resolved_at"] is not None:
            return letter
        rows = self._open_of_aggregate(connection, letter["aggregate_id"])
        handle_again(self._handler, unit, letter["event_id"], [row["text"] for row in rows])
        fault("dead_letters.handled")
        connection.execute(
            "UPDATE dead_letters SET status = 'REQUEUED', resolved_at = brokage_now() WHERE id = ANY(%s::uuid[])",
            ([row["id"] for row in rows],),
        )
        subject = {"service": self._consumer, "event_id": letter["event_id"], "events": len(rows)}
        unit.record(AdminActed(action="requeue_dead_letter", subject=subject), aggregate_id=letter_id)
        return {**letter, "status": "REQUEUED"}

    def _find(self, connection: Connection, letter_id: str) -> Row | None:
        return connection.execute(
            "SELECT * FROM dead_letters WHERE consumer = %s AND id = %s", (self._consumer, letter_id)
        ).fetchone()

    def _open_of_aggregate(self, connection: Connection, aggregate_id: str) -> list[Row]:
        return connection.execute(
            """SELECT id, message::text AS text FROM dead_letters
                WHERE consumer = %s AND aggregate_id = %s AND resolved_at IS NULL ORDER BY position""",
            (self._consumer, aggregate_id),
        ).fetchall()


def handle_again(handler: Handler, unit: UnitOfWork, event_id: str, texts: Sequence[str]) -> None:
    """Decode and handle `texts` in their order, a bounded number at once.

    Raises:
        DeadLetterFailedAgain: whatever the handler raised, but for what passes when the whole is repeated.
    """
    try:
        for start in range(0, len(texts), EVENTS_MAX):
            handler(unit, decode(texts[start : start + EVENTS_MAX]))
    except Exception as error:
        if is_transient(error) or is_refusal(error) or isinstance(error, DatabaseUnavailable):
            raise
        raise DeadLetterFailedAgain(event_id, error) from error


def decode(texts: Sequence[str]) -> list[Message[Any]]:
    return decode_messages(f"[{','.join(texts)}]")
