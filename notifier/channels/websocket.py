"""Live connections: not connected to anything yet; each notification says so."""

from notifier.channels.channel import UNAVAILABLE, Outgoing, skipped
from shared.mongo import Document


class WebsocketChannel:
    name = "websocket"
    asks_recipient = False

    def open(self, outgoing: Outgoing) -> Document:
        return skipped(UNAVAILABLE)
