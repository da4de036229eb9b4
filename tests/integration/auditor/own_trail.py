"""A trail that belongs to one test."""

from dataclasses import dataclass
from typing import Any

from auditor.documents import LOGS
from auditor.service import Auditor
from shared.contracts.message import Message
from shared.contracts.orders import OrderConfirmed
from shared.mongo import MongoDatabase
from shared.testing.messages import create_order_event


@dataclass
class Trail:
    """A trail and its writer."""

    database: MongoDatabase
    auditor: Auditor

    def record(self, count: int) -> list[Message[Any]]:
        messages = [create_order_event(OrderConfirmed) for _ in range(count)]
        self.auditor.handle(messages)
        return messages

    def records(self) -> list[dict[str, Any]]:
        return list(self.database[LOGS].find().sort("seq", 1))

    def event_ids(self) -> list[str]:
        return [record["event_id"] for record in self.records()]
