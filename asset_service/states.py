"""The words that rows of this service use of themselves."""

from enum import StrEnum


class InstrumentStatus(StrEnum):
    TRADING = "TRADING"
    HALTED = "HALTED"


class ReservationStatus(StrEnum):
    """ACTIVE blocks `remaining`; the others block nothing, and last."""

    ACTIVE = "ACTIVE"
    SETTLED = "SETTLED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


class AccountClass(StrEnum):
    """Only CUSTOMER, ESCROW and PARTNER accounts must not go negative; the others stand for the world outside."""

    CUSTOMER = "CUSTOMER"
    HOUSE = "HOUSE"
    FEE = "FEE"
    EXTERNAL = "EXTERNAL"
    ROUNDING = "ROUNDING"
    ESCROW = "ESCROW"
    PARTNER = "PARTNER"


class TransferKind(StrEnum):
    DEPOSIT = "DEPOSIT"
    WITHDRAWAL = "WITHDRAWAL"
