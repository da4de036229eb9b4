"""A batch is read in one go where its messages are of one type, and message by message where not, with the same result."""

from decimal import Decimal

import msgspec
import pytest

from shared.contracts.message import Message, UnknownContract, decode_messages, encode_messages
from shared.contracts.orders import ConfirmOrder, MarkOrderMatched, RejectOrder
from shared.ids import ROOT_ORGANIZATION_ID, new_id
from shared.testing.messages import create_message

MATCHED = MarkOrderMatched(filled_size=Decimal(1), filled_notional=Decimal("100.50"), fee_amount=Decimal(0))
PAYLOADS = {
    "nothing": [],
    "one type": [MATCHED, MATCHED],
    "several types": [ConfirmOrder(), MATCHED, RejectOrder(rejection_reason="INSTRUMENT_HALTED"), ConfirmOrder()],
}


def messages(payloads: list[object]) -> list[Message[object]]:
    return [create_message(payload, aggregate_id=new_id()) for payload in payloads]


@pytest.mark.parametrize("payloads", PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("kind", [bytes, lambda data: data.decode()], ids=["bytes", "text"])
def test_what_was_said_is_read(payloads: list[object], kind: type) -> None:
    said = messages(payloads)
    assert decode_messages(kind(encode_messages(said))) == said


@pytest.mark.parametrize("bad", [0, 1])
def test_another_type_or_version_anywhere_is_refused(bad: int) -> None:
    for change in ({"type": "Unheard"}, {"version": 7}):
        said = messages([ConfirmOrder(), ConfirmOrder()])
        said[bad] = msgspec.structs.replace(said[bad], **change)
        with pytest.raises(UnknownContract):
            decode_messages(encode_messages(said))


@pytest.mark.parametrize("bad", [0, 1])
def test_a_payload_of_another_shape_anywhere_is_refused(bad: int) -> None:
    said = messages([MATCHED, MATCHED])
    said[bad] = msgspec.structs.replace(said[bad], payload={"filled_size": "many"})
    with pytest.raises(msgspec.ValidationError):
        decode_messages(encode_messages(said))


def test_a_name_inside_an_id_decides_nothing() -> None:
    said = [msgspec.structs.replace(each, correlation_id='","type":"RejectOrder"') for each in messages([MATCHED])]
    assert decode_messages(encode_messages(said)) == said


def test_an_organization_is_written_unless_it_is_the_root() -> None:
    [root] = messages([ConfirmOrder()])
    other = msgspec.structs.replace(root, organization_id=new_id())
    encoded = encode_messages([root, other])
    assert encoded.count(b"organization_id") == 1
    assert [each.organization_id for each in decode_messages(encoded)] == [ROOT_ORGANIZATION_ID, other.organization_id]
