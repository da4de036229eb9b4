"""HTTP bodies."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel


class RelatedEntity(BaseModel):
    type: str
    id: str


class ChannelRead(BaseModel):
    """How a notification fares in one channel. `status`: DELIVERED, PENDING, SENT, FAILED, or SKIPPED with its `reason`."""

    status: str
    reason: str | None = None
    recipient: str | None = None
    sent_at: datetime | None = None
    retry_count: int = 0


class NotificationRead(BaseModel):
    id: str
    event_id: str
    type: str
    title: str
    message: str
    category: str
    priority: str
    channels: dict[str, ChannelRead]
    read_status: str
    read_at: datetime | None
    related_entity: RelatedEntity
    created_at: datetime


def notification_read(document: dict[str, Any]) -> NotificationRead:
    return NotificationRead.model_validate({**document, "id": document["_id"]})
