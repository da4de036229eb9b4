"""What only order_service needs to know."""

from shared.settings import ServiceSettings


class Settings(ServiceSettings):
    """`place_*`: the group commit of new orders. Times in seconds."""

    orders_database_url: str
    place_flushes_max: int = 2
    place_batch_max: int = 200
    place_waiting_max: int = 2000
    inactive_sweep_seconds: float = 5.0
