"""Use cases: events and reads enter the trail; the trail is searched, verified and exported."""

from collections.abc import Mapping, Sequence
from typing import Any

from auditor import documents
from auditor.records import content_from_event, content_from_read, is_change
from auditor.writer import ChainWriter
from shared.auth.caller import CallerContext
from shared.clock import utc_now
from shared.contracts.message import SYSTEM_ACTOR, Message
from shared.contracts.system import AdminActed, MessageRefused
from shared.db.engine import DatabaseUnavailable
from shared.faults import fault
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.messaging.broker import Broker
from shared.mongo import Document, MongoDatabase, MongoPrincipals

INTAKE_BATCH = 500


class Auditor:
    """Turns batches of events into records. Repeats are harmless: an event is in the trail once."""

    def __init__(self, database: MongoDatabase, writer: ChainWriter) -> None:
        self._principals = MongoPrincipals(database)
        self._writer = writer

    def handle(self, messages: Sequence[Message[Any]]) -> None:
        self._principals.apply(messages)
        changes = [message for message in messages if is_change(message)]
        if changes:
            self._writer.append(map(content_from_event, changes))


def record_read(database: MongoDatabase, caller: CallerContext, operation: str, query: Mapping[str, Any]) -> None:
    """Put a read of the trail on record, durably, before it is answered; the writer chains it within a second.

    Raises:
        DatabaseUnavailable: it could not be put on record, so the read must not happen.
    """
    _record_read(
        database,
        operation=operation,
        query=query,
        user_id=caller.customer_id,
        role=caller.role.value,
        organization_id=caller.principal.organization_id,
        correlation_id=caller.correlation_id,
    )


def record_operator_read(database: MongoDatabase, operation: str) -> None:
    """The same for somebody at the command line, whom the platform does not know."""
    _record_read(
        database,
        operation=operation,
        query={},
        user_id=None,
        role=SYSTEM_ACTOR.role,
        organization_id=ROOT_ORGANIZATION_ID,
        correlation_id=new_id(),
    )


def _record_read(database: MongoDatabase, **read: Any) -> None:
    content = content_from_read(event_id=new_id(), timestamp=utc_now(), **read)
    with database.reachable():
        documents.put_intake(database, content)


def record_event(database: MongoDatabase, message: Message[AdminActed] | Message[MessageRefused]) -> None:
    """Put on record what happens in this service itself, or is reported to it; it has no outbox to say it to itself."""
    with database.reachable():
        documents.put_intake(database, content_from_event(message))


def record_reports(database: MongoDatabase, broker: Broker) -> None:
    """Put on record what services without an outbox have refused.

    Raises:
        DatabaseUnavailable: not all of it could be; the rest is reported again.
    """
    waiting = broker.take_reports()
    while waiting:
        try:
            record_event(database, waiting[0])
        except DatabaseUnavailable:
            for report in waiting:
                broker.report(report)
            raise
        del waiting[0]


def chain_intake(database: MongoDatabase, writer: ChainWriter) -> int:
    """Chain what waits in `audit_intake`, a bounded number; how many. A crash in between chains nothing twice."""
    waiting = documents.waiting_intake(database, INTAKE_BATCH)
    if waiting:
        writer.append(map(_content, waiting))
        fault("auditor.intake_chained")
        documents.drop_intake(database, [document["_id"] for document in waiting])
        fault("auditor.intake_dropped")
    return len(waiting)


def _content(document: Document) -> Document:
    return {name: value for name, value in document.items() if name != "_id"}
