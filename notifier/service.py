"""Use cases: events become notifications, and notifications are read."""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from notifier import documents
from notifier.channels import Channel, Outgoing, open_channels
from notifier.documents import ReadStatus, Recipient
from notifier.settings import Settings
from notifier.templates import Template, template_for
from shared.auth.principals import latest_customer_states
from shared.clock import utc_now
from shared.contracts.customers import NotificationPreferencesChanged
from shared.contracts.message import Message
from shared.errors import NotFound
from shared.faults import fault
from shared.ids import new_id
from shared.mongo import Document, MongoDatabase, MongoPrincipals, milliseconds


class Notifier:
    """Turns batches of events into notifications.

    Everything is set-based: the number of commands does not depend on the size of a batch. The unique key (customer,
    event, template) makes repeats harmless.
    """

    def __init__(self, database: MongoDatabase, settings: Settings) -> None:
        self._database = database
        self._principals = MongoPrincipals(database)
        self._channels = open_channels(email_configured=settings.smtp_url is not None)
        self._kept = timedelta(seconds=settings.notifications_kept_seconds)

    def handle(self, messages: Sequence[Message[Any]]) -> None:
        """The effect of a batch. Contacts and preferences come first, so that they already count for its other events."""
        self._principals.apply(messages)
        documents.apply_contacts(self._database, latest_customer_states(messages))
        documents.apply_preferences(self._database, _latest_preferences(messages))
        fault("notifier.contacts_applied")
        told = [(message, template) for message in messages if (template := template_for(message))]
        if not told:
            return
        recipients = self._recipients({message.customer_id for message, _ in told if message.customer_id is not None})
        now = milliseconds(utc_now())
        documents.insert_notifications(
            self._database,
            [
                compose(message, template, recipients[message.customer_id], self._channels, now, now + self._kept)
                for message, template in told
                if message.customer_id is not None
            ],
        )
        fault("notifier.inserted")

    def _recipients(self, customer_ids: Collection[int]) -> dict[int, Recipient]:
        if any(channel.asks_recipient for channel in self._channels):
            return documents.load_recipients(self._database, customer_ids)
        return {customer_id: Recipient(customer_id) for customer_id in customer_ids}


def compose(
    message: Message[Any],
    template: Template,
    recipient: Recipient,
    channels: Sequence[Channel],
    now: datetime,
    expires_at: datetime,
) -> Document:
    """A new notification, each channel with the status it starts with."""
    id = new_id()
    outgoing = Outgoing(recipient, message.type, template.category, now)
    return {
        "_id": id,
        "notification_id": id,
        "customer_id": recipient.customer_id,
        "event_id": message.event_id,
        "template": template.name,
        "type": template.type,
        "title": template.title,
        "message": template.message(message.payload),
        "channels": {channel.name: channel.open(outgoing) for channel in channels},
        "read_status": ReadStatus.UNREAD.value,
        "read_at": None,
        "priority": template.priority,
        "category": template.category,
        "related_entity": {"type": message.aggregate_type, "id": message.aggregate_id},
        "event_type": message.type,
        "correlation_id": message.correlation_id,
        "organization_id": message.organization_id,
        "created_at": now,
        "updated_at": now,
        "expires_at": expires_at,
    }


def mark_read(database: MongoDatabase, customer_id: int, notification_id: str) -> None:
    """The customer has read it; again is the same.

    Raises:
        NotFound: there is none, or it is another's.
    """
    with database.reachable():
        if not documents.mark_read(database, customer_id, notification_id, milliseconds(utc_now())):
            raise NotFound()


def _latest_preferences(messages: Sequence[Message[Any]]) -> list[Message[NotificationPreferencesChanged]]:
    newest: dict[str, Message[NotificationPreferencesChanged]] = {}
    for message in messages:
        if not isinstance(message.payload, NotificationPreferencesChanged):
            continue
        known = newest.get(message.aggregate_id)
        if known is None or known.aggregate_version < message.aggregate_version:
            newest[message.aggregate_id] = message
    return list(newest.values())
