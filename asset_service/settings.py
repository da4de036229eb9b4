"""What only asset_service needs to know."""

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    assets_database_url: str
