"""What travels through the broker. The broker may lose, repeat and reorder all of it."""

from enum import StrEnum

import msgspec


class Outcome(StrEnum):
    """What became of a batch at its consumer."""

    ACKED = "ACKED"
    PARKED = "PARKED"
    """Every event is settled one way or another, but at least one waits for a person."""
    LOST = "LOST"
    """Nothing became of it: the worker process that had it ended. Its lease need not be waited for."""


class Batch(msgspec.Struct, frozen=True):
    """One outbox batch on the wire. `deliveries` counts how often its source has sent it, this time included."""

    id: str
    deliveries: int
    events: msgspec.Raw


class Delivery(msgspec.Struct, frozen=True):
    """The one outstanding message of a lane: the batches of one claim, in order."""

    source: str
    lane: int
    batches: list[Batch]


class Acknowledgement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told to a batch's source. `deliveries` says which delivery is LOST: there may be a later one by now."""

    batch_id: str
    outcome: Outcome = Outcome.ACKED
    deliveries: int = 0


_delivery_decoder = msgspec.json.Decoder(Delivery)
_acknowledgement_decoder = msgspec.json.Decoder(list[Acknowledgement])


def decode_delivery(data: bytes) -> Delivery:
    return _delivery_decoder.decode(data)


def decode_acknowledgements(data: bytes) -> list[Acknowledgement]:
    return _acknowledgement_decoder.decode(data)
