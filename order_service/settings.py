"""What only order_service needs to know."""

from datetime import time
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field

from shared.settings import ServiceSettings

NAME = "order_service"


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"there is no time zone {name!r}") from None
    return name


def _of_the_wall(moment: time) -> time:
    if moment.tzinfo is not None:
        raise ValueError("the close is a local time; its zone has a setting of its own")
    return moment


class Settings(ServiceSettings):
    """`market_*`: when DAY orders end, by the clocks of `market_timezone`. `place_*`: the group commit of new orders.
    `archive_*_seconds`: how long ended orders stay before they are archived, rejected ones and the others;
    `archive_batch_max` orders at once, `archive_batches_max` times a turn. `archive_kept_months`: months of the archive that
    ended so long ago are deleted; without it none ever is. Times in seconds."""

    orders_database_url: str
    market_close: Annotated[time, AfterValidator(_of_the_wall)] = time(18, 0)
    market_timezone: Annotated[str, AfterValidator(_known_timezone)] = "Europe/Istanbul"
    place_linger_seconds: float = 0.002
    place_batch_max: int = 200
    place_waiting_max: int = 2000
    inactive_sweep_seconds: float = 5.0
    archive_sweep_seconds: float = 60.0
    archive_final_seconds: float = 90 * 86_400.0
    archive_rejected_seconds: float = 30 * 86_400.0
    archive_batch_max: int = Field(default=500, ge=1)
    archive_batches_max: int = Field(default=20, ge=1)
    archive_kept_months: int | None = Field(default=None, ge=1)
