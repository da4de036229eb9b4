"""A delivery on the wire: what goes in comes out, and what is none is told from one."""

import lz4.block
import msgspec
import pytest

from shared.contracts.message import encode_messages
from shared.contracts.orders import ConfirmOrder
from shared.ids import new_id
from shared.messaging.delivery import Batch, Delivery, decode_delivery, encode_delivery
from shared.testing.messages import create_message


def delivery_of(count: int) -> Delivery:
    messages = [create_message(ConfirmOrder(), aggregate_id=new_id()) for _ in range(count)]
    return Delivery("order_service", [Batch(new_id(), 2, msgspec.Raw(encode_messages(messages)))])


@pytest.mark.parametrize("count", [0, 1, 500])
def test_what_goes_in_comes_out(count: int) -> None:
    delivery = delivery_of(count)
    assert decode_delivery(encode_delivery(delivery)) == delivery


def test_many_events_of_a_kind_become_small() -> None:
    delivery = delivery_of(500)
    assert len(encode_delivery(delivery)) < len(bytes(delivery.batches[0].events)) / 3


NO_DELIVERIES = {
    "nothing": b"",
    "no block": b'{"lane": "one"}',
    "cut": encode_delivery(delivery_of(3))[:-9],
    "no JSON": lz4.block.compress(b"{"),
    "another shape": lz4.block.compress(b'{"lane": "one"}'),
}


@pytest.mark.parametrize("data", NO_DELIVERIES.values(), ids=NO_DELIVERIES)
def test_what_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_delivery(data)
