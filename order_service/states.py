"""The words that rows of this service use of themselves."""

from enum import StrEnum


class OrderStatus(StrEnum):
    """The contract's states of an order."""

    PENDING_RESERVATION = "PENDING_RESERVATION"
    ASSET_RESERVED = "ASSET_RESERVED"
    ORDER_CONFIRMED = "ORDER_CONFIRMED"
    PARTIALLY_MATCHED = "PARTIALLY_MATCHED"
    PENDING_CANCEL = "PENDING_CANCEL"
    MATCHED = "MATCHED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"
    REJECTED = "REJECTED"
    ARCHIVED = "ARCHIVED"


FINAL = frozenset({OrderStatus.MATCHED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REJECTED})
"""Where an order's life ends; ARCHIVED only files it away."""

CREATED = "CREATED"
"""The first row of every history; never an order's status."""


class OrderType(StrEnum):
    LIMIT = "LIMIT"


class TimeInForce(StrEnum):
    """How long an order stands: until it is canceled, until the market closes, until its `expires_at`."""

    GTC = "GTC"
    DAY = "DAY"
    GTD = "GTD"
