"""What only order_service needs to know."""

from datetime import time
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator

from shared.settings import ServiceSettings


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
    """`market_*`: when DAY orders end, by the clocks of `market_timezone`. `place_*`: the group commit of new orders. Times in
    seconds."""

    orders_database_url: str
    market_close: Annotated[time, AfterValidator(_of_the_wall)] = time(18, 0)
    market_timezone: Annotated[str, AfterValidator(_known_timezone)] = "Europe/Istanbul"
    place_linger_seconds: float = 0.005
    place_batch_max: int = 200
    place_waiting_max: int = 2000
    inactive_sweep_seconds: float = 5.0
