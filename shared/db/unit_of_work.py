"""One request or one batch = one transaction: state, answers and outbox rows commit together or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

import psycopg
from psycopg import errors
from psycopg.rows import DictRow

from shared.contracts.message import SYSTEM_ACTOR, Actor, Command, Event, Message, contract_of
from shared.faults import fault
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.messaging.outbox import Outbox

Connection: TypeAlias = psycopg.Connection[DictRow]
P = TypeVar("P", bound=Event | Command)


class Conflict(Exception):
    """A conditional update hit fewer rows than it named, or a key is taken: somebody else was first. The whole transaction is
    repeated."""


@contextmanager
def taken_is_conflict() -> Iterator[None]:
    """Around an insert of what was just looked for and not found. Unlike ON CONFLICT this costs nothing while nobody else is first:
    no look at the index before the insert, and no second entry in the log."""
    try:
        yield
    except errors.UniqueViolation as error:
        raise Conflict from error


@dataclass(frozen=True, slots=True)
class Context:
    """Who acts, and in which conversation. Messages recorded without a cause carry it."""

    actor: Actor = SYSTEM_ACTOR
    correlation_id: str = field(default_factory=new_id)
    organization_id: str = ROOT_ORGANIZATION_ID


class Cause(Protocol):
    """What a message is said because of: another message, or what is remembered of one."""

    @property
    def event_id(self) -> str: ...

    @property
    def actor(self) -> Actor: ...

    @property
    def correlation_id(self) -> str: ...

    @property
    def organization_id(self) -> str: ...


class UnitOfWork:
    """An open transaction and what it will say when it commits. Only `Database.run` makes and commits one."""

    def __init__(self, connection: Connection, *, now: datetime, context: Context) -> None:
        self.connection = connection
        self.context = context
        self.now = now
        self._outbox = Outbox()

    def record(
        self,
        payload: P,
        *,
        aggregate_id: str,
        aggregate_version: int = 1,
        customer_id: int | None = None,
        cause: Cause | None = None,
        readers: tuple[str, ...] | None = None,
    ) -> Message[P]:
        """Say `payload` to its readers once this transaction commits.

        Args:
            cause: the message that led here; its actor, correlation and organization go on. Else those of the context.
            readers: instead of the contract's readers (re-publishing to projections only).
        """
        known = contract_of(payload)
        origin = cause or self.context
        message = Message(
            event_id=new_id(),
            type=known.name,
            version=known.version,
            occurred_at=self.now,
            aggregate_type=known.aggregate_type,
            aggregate_id=aggregate_id,
            aggregate_version=aggregate_version,
            customer_id=customer_id,
            organization_id=origin.organization_id,
            actor=origin.actor,
            correlation_id=origin.correlation_id,
            causation_id=cause.event_id if cause else None,
            payload=payload,
        )
        self._outbox.add(known.readers if readers is None else readers, message)
        return message

    def batch_id(self, reader: str, message: Message[Any]) -> str:
        """The outbox batch that carries `message` to `reader`; a saga keeps it to know when its command has arrived."""
        return self._outbox.batch_id(reader, message)

    def flush(self) -> None:
        """Write the outbox batches; last in the transaction, because it takes the lanes' locks. Called by `Database.run`."""
        fault("unit_of_work.before_flush")
        self._outbox.flush(self.connection)
        fault("unit_of_work.before_commit")
