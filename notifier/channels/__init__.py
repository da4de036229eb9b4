"""The ways a notification can go. Each module holds one channel; all answer the same question: `Channel.open`."""

from collections.abc import Sequence

from notifier.channels.channel import Channel, Outgoing
from notifier.channels.email import EmailChannel
from notifier.channels.in_app import InAppChannel
from notifier.channels.push import PushChannel
from notifier.channels.sms import SmsChannel
from notifier.channels.websocket import WebsocketChannel

__all__ = ["Channel", "Outgoing", "open_channels"]


def open_channels(*, email_configured: bool) -> Sequence[Channel]:
    """The channels of this installation, in the order in which S4 names them."""
    return (
        InAppChannel(),
        EmailChannel(configured=email_configured),
        SmsChannel(),
        PushChannel(),
        WebsocketChannel(),
    )
