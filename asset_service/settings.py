"""What only asset_service needs to know."""

from decimal import Decimal

from pydantic import Field

from shared.settings import ServiceSettings

NAME = "asset_service"


class Settings(ServiceSettings):
    """`reservation_*`: how long after its order's end a reservation may still stand before that is an alarm, and how often to look,
    in seconds. `second_factor_above`: as JSON, by asset, how much may be withdrawn in 24 hours without a second factor; assets
    that are not named have no such limit."""

    assets_database_url: str
    reservation_grace_seconds: float = 300.0
    reservation_sweep_seconds: float = 60.0
    second_factor_above: dict[str, Decimal] = Field({})
