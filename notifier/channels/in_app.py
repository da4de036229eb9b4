"""In the app: to store it is to deliver it. Preferences do not apply, since this is the customer's own record."""

from notifier.channels.channel import Outgoing
from shared.mongo import Document


class InAppChannel:
    name = "in_app"
    asks_recipient = False

    def open(self, outgoing: Outgoing) -> Document:
        return {"status": "DELIVERED", "sent_at": outgoing.now}
