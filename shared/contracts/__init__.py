"""Messages that cross services: who says what, in which shape, to whom.

An event is a fact in the past tense with any number of readers; a command is a request in the imperative with one receiver.
Importing this package registers every contract.
"""

from shared.contracts import assets, customers, orders, system, trades
from shared.contracts.message import (
    Actor,
    Command,
    Contract,
    Event,
    Message,
    UnknownContract,
    contract_of,
    contracts,
    decode_messages,
    encode_messages,
    lane_of,
    partition_of,
    partition_of_message,
)

__all__ = [
    "Actor",
    "Command",
    "Contract",
    "Event",
    "Message",
    "UnknownContract",
    "assets",
    "contract_of",
    "contracts",
    "customers",
    "decode_messages",
    "encode_messages",
    "lane_of",
    "orders",
    "partition_of",
    "partition_of_message",
    "system",
    "trades",
]
