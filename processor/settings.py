"""What only the processor needs to know."""

from datetime import timedelta

from processor.matching.policy import Policy
from shared.settings import ServiceSettings

NAME = "processor"


class Settings(ServiceSettings):
    """Times in seconds. `saga_*`: an answer is overdue so long after its command was acknowledged; the command is sent again so
    often."""

    processor_database_url: str
    matching_policy: Policy = Policy.TIER_PRICE_TIME
    saga_answer_seconds: float = 30.0
    saga_resends_max: int = 3
    saga_sweep_seconds: float = 5.0
    expiry_sweep_seconds: float = 1.0

    @property
    def saga_answer(self) -> timedelta:
        return timedelta(seconds=self.saga_answer_seconds)
