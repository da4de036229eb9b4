"""Until when an order stands."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from order_service.states import TimeInForce


@dataclass(frozen=True, slots=True)
class MarketDay:
    """When the market closes: `close` by the clocks of `timezone`, which may go forward or back in between."""

    close: time
    timezone: ZoneInfo

    def end_of(self, moment: datetime) -> datetime:
        """The close of the local day of `moment`, or of the day after when it is not before that close; in UTC.

        On a day whose clocks skip the close it is as much later as they skip; on one that has it twice it is the first.
        """
        day = moment.astimezone(self.timezone).date()
        close = self._close_of(day)
        return close if moment < close else self._close_of(day + timedelta(days=1))

    def _close_of(self, day: date) -> datetime:
        return datetime.combine(day, self.close, self.timezone).astimezone(UTC)


def expires_at(
    time_in_force: TimeInForce, wished: datetime | None, now: datetime, market: MarketDay
) -> datetime | None:
    """When an order accepted `now` ends; None if it does not by itself."""
    if time_in_force is TimeInForce.DAY:
        return market.end_of(now)
    return wished
