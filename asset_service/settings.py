"""What only asset_service needs to know."""

from decimal import Decimal

from pydantic import Field

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    """`second_factor_above`: as JSON, by asset, how much may be withdrawn in 24 hours without a second factor; assets
    that are not named have no such limit."""

    assets_database_url: str
    second_factor_above: dict[str, Decimal] = Field({})
