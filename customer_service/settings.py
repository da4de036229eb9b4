"""What only customer_service needs to know."""

from shared.settings import ServiceSettings

NAME = "customer_service"


class Settings(ServiceSettings):
    """`argon2_*`: cost of a password hash (memory in KiB); tests make it cheap. Lifetimes in seconds."""

    customers_database_url: str
    argon2_time_cost: int = 2
    argon2_memory_kib: int = 19_456
    argon2_parallelism: int = 1
    access_token_seconds: int = 15 * 60
    refresh_token_seconds: int = 24 * 3600
    refresh_family_seconds: int = 30 * 24 * 3600
