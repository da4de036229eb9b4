"""The envelope every message travels in, and the register of contracts."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar
from zlib import crc32

import msgspec

from shared.ids import ROOT_ORGANIZATION_ID

PARTITIONS = 64
"""Into how many parts the keys of an aggregate fall. Lanes are sets of partitions, so a lane's batch stays in its partitions."""


SERIAL_READERS = frozenset({"auditor"})
"""Readers that chain what they read, and so take one batch after the other: a second lane would only wait for the first."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A fact. `before` and `after` hold what changed, as JSON values, personal data only as digests.

    Readers ignore unknown fields.
    """

    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request to one receiver, who may refuse. Unknown fields are refused: the receiver must understand all it is asked."""


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who caused a message: the customer id behind the token (None for the system), the role, and for whom a broker acted."""

    id: int | None = None
    role: str = "SYSTEM"
    on_behalf_of: int | None = None


SYSTEM_ACTOR = Actor()

P = TypeVar("P")


class Message(msgspec.Struct, Generic[P], frozen=True, kw_only=True, omit_defaults=True):
    """Header and payload of one event or command; the fields of contract.md, Messages. What is as by default is not written.

    `aggregate_version` grows with the aggregate; `causation_id` is the event that caused this one.
    """

    event_id: str
    type: str
    version: int = 1
    occurred_at: datetime
    aggregate_type: str
    aggregate_id: str
    aggregate_version: int = 1
    customer_id: int | None = None
    organization_id: str = ROOT_ORGANIZATION_ID
    actor: Actor = SYSTEM_ACTOR
    correlation_id: str
    causation_id: str | None = None
    payload: P


@dataclass(frozen=True, slots=True)
class Contract:
    """What is known of a message type: its payload, the kind of thing it speaks of, and the services that read it."""

    name: str
    payload: type[Event] | type[Command]
    aggregate_type: str
    readers: tuple[str, ...]
    version: int
    by_customer: bool
    """Travels in the lane of its customer (asset_service partitions balances by customer), not of its aggregate."""


class UnknownContract(Exception):
    """A message of a type or version that this code does not know; it is parked, never guessed at."""


_CONTRACTS: dict[str, Contract] = {}
_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {}
_BATCH_DECODERS: dict[str, msgspec.json.Decoder[Any]] = {}
_ENCODER = msgspec.json.Encoder()
_RAW_DECODER = msgspec.json.Decoder(list[Message[msgspec.Raw]])

C = TypeVar("C", bound=type[Event] | type[Command])


def contract(
    aggregate: str, readers: Iterable[str], *, version: int = 1, by_customer: bool = False
) -> Callable[[C], C]:
    """Class decorator: register a payload type under its own name."""

    def register(payload: C) -> C:
        name = payload.__name__
        if name in _CONTRACTS:
            raise ValueError(f"{name} is registered twice")
        _CONTRACTS[name] = Contract(name, payload, aggregate, tuple(readers), version, by_customer)
        _DECODERS[name] = msgspec.json.Decoder(payload)
        _BATCH_DECODERS[name] = msgspec.json.Decoder(list[Message[payload]])  # type: ignore[valid-type]
        return payload

    return register


def contracts() -> dict[str, Contract]:
    """Every registered contract by name."""
    return dict(_CONTRACTS)


def contract_of(payload: Event | Command) -> Contract:
    return _CONTRACTS[type(payload).__name__]


def encode_message(message: Message[Any]) -> bytes:
    return _ENCODER.encode(message)


def join_messages(encoded: Iterable[bytes]) -> bytes:
    """The batch of messages that are encoded already."""
    return b"[" + b",".join(encoded) + b"]"


def encode_messages(messages: Sequence[Message[Any]]) -> bytes:
    return _ENCODER.encode(messages)


def decode_messages(data: bytes | str) -> list[Message[Any]]:
    """The typed messages of a batch.

    Raises:
        UnknownContract: a type or a version that is not registered here.
        msgspec.ValidationError: a payload that is not of its contract's shape.
    """
    return _of_one_type(data) or [_typed(raw) for raw in _RAW_DECODER.decode(data)]


_TYPE = re.compile(rb'"type":"(\w+)"')
_HEADER_MAX = 500


def _of_one_type(data: bytes | str) -> list[Message[Any]] | None:
    """The messages of a batch that has only one type, as nearly all have: read in one go. None if it is another one."""
    first = _TYPE.search(data, 0, _HEADER_MAX) if isinstance(data, bytes) else None
    known = _CONTRACTS.get(first[1].decode()) if first else None
    if known is None:
        return None
    try:
        messages: list[Message[Any]] = _BATCH_DECODERS[known.name].decode(data)
    except msgspec.ValidationError:
        return None
    if any(message.type != known.name or message.version != known.version for message in messages):
        return None
    return messages


def _typed(raw: Message[msgspec.Raw]) -> Message[Any]:
    known = _CONTRACTS.get(raw.type)
    if known is None or known.version != raw.version:
        raise UnknownContract(f"{raw.type} version {raw.version}")
    message: Message[Any] = raw
    # Frozen for everybody else: this one was made two lines ago, and a copy of every message of a batch is felt.
    msgspec.structs.force_setattr(message, "payload", _DECODERS[raw.type].decode(raw.payload))
    return message


def partition_of(key: str) -> int:
    """The partition of a key, 0..PARTITIONS-1; the same in every process and for ever."""
    return crc32(key.encode()) % PARTITIONS


def partition_of_message(message: Message[Any]) -> int:
    """The partition of what a message is about."""
    by_customer = _CONTRACTS[message.type].by_customer
    return partition_of(str(message.customer_id) if by_customer else message.aggregate_id)


def lane_of(partition: int, reader: str, lanes: int) -> int:
    """Which of the `lanes` to `reader` a message of this partition takes."""
    return 0 if reader in SERIAL_READERS else partition % lanes
