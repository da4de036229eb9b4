"""The words that rows of this service use of themselves. The states of sagas are in `sagas/`."""

from enum import StrEnum


class SagaType(StrEnum):
    ORDER = "ORDER"
    TRADE = "TRADE"


class TradeStatus(StrEnum):
    SETTLING = "SETTLING"
    SETTLED = "SETTLED"
    BUSTED = "BUSTED"
