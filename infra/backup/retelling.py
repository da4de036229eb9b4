"""Events that only the audit trail still has, said again to the notifier.

An outbox keeps what was acknowledged for 24 hours, and one that was restored to an earlier moment has lost what it said since. A
notifier that is older than that is told from the trail, which has what its templates need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from auditor.documents import LOGS
from infra.reconcile import telling
from infra.reconcile.messages import sent_by_nobody
from infra.reconcile.stores import Stores
from infra.reconcile.streams import chunks
from shared.contracts import Actor, Message, contracts
from shared.contracts.customers import CUSTOMER
from shared.contracts.orders import ORDER
from shared.db import UnitOfWork
from shared.messaging.outbox import Outbox

READER = "notifier"
_SOURCES = {ORDER: "order_service", CUSTOMER: "customer_service"}
_OTHER_SOURCE = "asset_service"
_AT_ONCE = 500


def find(stores: Stores) -> Iterator[str]:
    """Events in the trail that their customer was not told of, and that no outbox can tell him of any more."""
    untold = (suspect.key for suspect in telling.untold(stores) if suspect.evidence == telling.NEVER)
    for chunk in chunks(untold, _AT_ONCE):
        yield from sent_by_nobody(stores, READER, chunk)


def say_again(stores: Stores, event_ids: Sequence[str]) -> None:
    """Customers must have been republished before: what is said here carries none of their addresses."""
    logs = stores.documents("auditor")[LOGS]
    for chunk in chunks(event_ids, _AT_ONCE):
        with stores.documents("auditor").reachable():
            records = list(logs.find({"_id": {"$in": chunk}}).sort("seq", 1))
        for source in (*_SOURCES.values(), _OTHER_SOURCE):
            said = [each for each in map(message_of, records) if _source_of(each) == source]
            if said:
                stores.database(source).run(lambda uow, said=said: _put(uow, said))  # type: ignore[misc]


def _source_of(message: Message[Any]) -> str:
    return _SOURCES.get(message.aggregate_type, _OTHER_SOURCE)


def _put(uow: UnitOfWork, messages: Sequence[Message[Any]]) -> None:
    """Not `uow.record`: that would make them events of their own."""
    outbox = Outbox()
    for message in messages:
        outbox.add((READER,), message)
    outbox.flush(uow.connection)


def message_of(record: dict[str, Any]) -> Message[Any]:
    """The event of an audit record, as far as the notifier needs it.

    It has version 0, older than any state that a projection may have of its aggregate: the trail has digests in place of personal
    data.
    """
    about = record["metadata"]
    known = contracts()[about["event_type"]]
    said = {**record["new_value"], "email": None, "before": record["old_value"], "after": {}}
    return Message(
        event_id=record["event_id"],
        type=known.name,
        version=known.version,
        occurred_at=record["timestamp"],
        aggregate_type=record["entity_type"],
        aggregate_id=record["entity_id"],
        aggregate_version=0,
        customer_id=about["customer_id"],
        organization_id=about["organization_id"],
        actor=Actor(record["user_id"], record["role"], about["on_behalf_of"]),
        correlation_id=record["correlation_id"],
        causation_id=about["causation_id"],
        payload=msgspec.convert(said, known.payload),
    )
