"""The saga of a trade: settled or busted, by the one answer of asset_service."""

from enum import StrEnum

from processor.sagas.transition import Transition
from shared.statemachine import StateMachine


class TradeSagaState(StrEnum):
    SETTLING = "SETTLING"
    SETTLED = "SETTLED"
    BUSTED = "BUSTED"
    NEEDS_HUMAN = "NEEDS_HUMAN"


S = TradeSagaState
ENDED = frozenset({S.SETTLED, S.BUSTED})
MESSAGES = ("TradeSettled", "TradeSettlementFailed")

TRADE_SAGA = StateMachine(
    {
        (S.SETTLING, "TradeSettled"): Transition(S.SETTLED),
        (S.SETTLING, "TradeSettlementFailed"): Transition(S.BUSTED),
        # The answer came after all; money has moved or it has not, whatever a person thought of it.
        (S.NEEDS_HUMAN, "TradeSettled"): Transition(S.SETTLED),
        (S.NEEDS_HUMAN, "TradeSettlementFailed"): Transition(S.BUSTED),
    },
    ignored={(state, message) for state in ENDED for message in MESSAGES},
    terminal=ENDED,
)
