"""What travels through the broker. The broker may lose, repeat and reorder all of it."""

from enum import StrEnum

import lz4.block
import msgspec


class Outcome(StrEnum):
    """What became of a batch at its consumer."""

    ACKED = "ACKED"
    PARKED = "PARKED"
    """Every event is settled one way or another, but at least one waits for a person."""
    LOST = "LOST"
    """Nothing became of it: the worker process that had it ended. Its lease need not be waited for."""
    DEFERRED = "DEFERRED"
    """Nothing became of it, because its reader's store is away. That was no delivery, and it may come again in a moment."""


class Batch(msgspec.Struct, frozen=True):
    """One outbox batch on the wire. `deliveries` counts how often its source has sent it, this time included."""

    id: str
    deliveries: int
    events: msgspec.Raw


class Delivery(msgspec.Struct, frozen=True):
    """One message to a reader: what was claimed of one or several of his lanes, each lane's batches in order."""

    source: str
    batches: list[Batch]


class Acknowledgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told to a batch's source. `deliveries` says which delivery is LOST or DEFERRED: there may be a later one by
    now."""

    batch_id: str
    outcome: Outcome = Outcome.ACKED
    deliveries: int = 0


_encoder = msgspec.json.Encoder()
_delivery_decoder = msgspec.json.Decoder(Delivery)
_acknowledgement_decoder = msgspec.json.Decoder(list[Acknowledgement])


def encode_delivery(delivery: Delivery) -> bytes:
    """JSON in an LZ4 block: events of one kind are a sixth of their size then, and cost every hand they go through a sixth."""
    return bytes(lz4.block.compress(_encoder.encode(delivery)))


def decode_delivery(data: bytes) -> Delivery:
    """
    Raises:
        msgspec.DecodeError: it is none. Only what is sealed is asked here: a block says itself how large it becomes.
    """
    try:
        text = lz4.block.decompress(data)
    except (lz4.block.LZ4BlockError, ValueError) as error:
        raise msgspec.DecodeError(str(error)) from None
    return _delivery_decoder.decode(text)


def decode_acknowledgements(data: bytes) -> list[Acknowledgement]:
    return _acknowledgement_decoder.decode(data)
