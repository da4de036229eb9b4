"""How a delivery lies in the broker, for who puts one there past the relays."""

from __future__ import annotations

import time
from base64 import b64decode
from typing import Any

import msgspec

from shared.ids import new_id
from shared.messaging.delivery import Delivery, decode_delivery
from shared.messaging.seal import Seals, delivery_channel


def wire_message(queue: str, delivery: bytes, seals: Seals | None, **changes: Any) -> tuple[str, bytes]:
    """Under which id, and in which words, an encoded delivery lies there. Without `seals` it has no seal; `changes` are other
    values of the message's fields."""
    id = new_id()
    seal = {} if seals is None else {"seal": seals.seal(delivery_channel(queue), delivery)}
    message = {
        "queue_name": queue,
        "actor_name": f"{queue}.receive",
        "args": [],
        "kwargs": {"delivery": delivery, **seal},
        "options": {"redis_message_id": id},
        "message_id": new_id(),
        "message_timestamp": int(time.time() * 1000),
        **changes,
    }
    return id, msgspec.json.encode(message)


def delivery_in(data: bytes) -> Delivery:
    """What a message that lies there delivers."""
    kwargs: dict[str, Any] = msgspec.json.decode(data)["kwargs"]
    return decode_delivery(b64decode(kwargs["delivery"]))


def copy_of(data: bytes) -> tuple[str, bytes]:
    """The same delivery, with the same seal, as another message."""
    id = new_id()
    message: dict[str, Any] = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    return id, msgspec.json.encode({**message, "message_id": new_id(), "options": {"redis_message_id": id}})
