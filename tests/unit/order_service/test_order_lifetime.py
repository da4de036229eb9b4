"""When DAY orders end: by the market's clocks, in winter and summer, on the days in between and on leap days."""

from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from order_service.service.lifetime import MarketDay, expires_at
from order_service.settings import Settings
from order_service.states import TimeInForce


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


class TestTheCloseOfTheMarket:
    @pytest.mark.parametrize(
        ("zone", "close", "accepted", "end"),
        [
            # Istanbul is three hours ahead all year; the day is the market's, not that of UTC.
            ("Europe/Istanbul", "18:00", "2026-03-02T08:00", "2026-03-02T15:00"),
            ("Europe/Istanbul", "18:00", "2026-03-02T14:59:59.999999", "2026-03-02T15:00"),
            ("Europe/Istanbul", "18:00", "2026-03-02T15:00", "2026-03-03T15:00"),
            ("Europe/Istanbul", "18:00", "2026-03-02T21:30", "2026-03-03T15:00"),
            # The last day of a leap year's February, of February in other years, of a year.
            ("Europe/Istanbul", "18:00", "2028-02-28T16:00", "2028-02-29T15:00"),
            ("Europe/Istanbul", "18:00", "2028-02-29T16:00", "2028-03-01T15:00"),
            ("Europe/Istanbul", "18:00", "2027-02-28T16:00", "2027-03-01T15:00"),
            ("Europe/Istanbul", "18:00", "2026-12-31T16:00", "2027-01-01T15:00"),
            # New York: the evening before and the day on which clocks go forward (8 March) and back (1 November).
            ("America/New_York", "16:00", "2026-03-07T20:59", "2026-03-07T21:00"),
            ("America/New_York", "16:00", "2026-03-07T21:00", "2026-03-08T20:00"),
            ("America/New_York", "16:00", "2026-03-08T05:00", "2026-03-08T20:00"),
            ("America/New_York", "16:00", "2026-10-31T20:00", "2026-11-01T21:00"),
            ("America/New_York", "16:00", "2026-11-01T20:30", "2026-11-01T21:00"),
            # A close that the clocks skip comes an hour later; one that they repeat is the first.
            ("Europe/Berlin", "02:30", "2026-03-28T12:00", "2026-03-29T01:30"),
            ("Europe/Berlin", "02:30", "2026-10-25T00:29", "2026-10-25T00:30"),
            ("Europe/Berlin", "02:30", "2026-10-25T00:30", "2026-10-26T01:30"),
            ("UTC", "00:00", "2026-01-01T00:00", "2026-01-02T00:00"),
        ],
    )
    def test_is_that_of_the_day_or_the_next(self, zone: str, close: str, accepted: str, end: str) -> None:
        market = MarketDay(time.fromisoformat(close), ZoneInfo(zone))
        assert market.end_of(utc(accepted)) == utc(end)
        assert market.end_of(utc(accepted)).tzinfo is UTC

    @pytest.mark.parametrize("zone", ["Europe/Istanbul", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"])
    def test_is_always_ahead_and_at_most_a_long_day_away(self, zone: str) -> None:
        market = MarketDay(time(18), ZoneInfo(zone))
        for quarter in range(0, 2 * 366 * 24 * 4, 7):
            moment = datetime.fromtimestamp(1_760_000_000 + quarter * 900, UTC)
            end = market.end_of(moment)
            assert moment < end
            assert (end - moment).total_seconds() <= 25 * 3600
            assert end.astimezone(market.timezone).time() == market.close


class TestExpiresAt:
    def test_is_the_close_the_wish_or_nothing(self) -> None:
        market, now, wish = (
            MarketDay(time(18), ZoneInfo("Europe/Istanbul")),
            utc("2026-03-02T08:00"),
            utc("2027-01-01T00:00"),
        )
        assert expires_at(TimeInForce.DAY, None, now, market) == utc("2026-03-02T15:00")
        assert expires_at(TimeInForce.GTD, wish, now, market) == wish
        assert expires_at(TimeInForce.GTC, None, now, market) is None


class TestSettings:
    def test_name_a_time_and_a_zone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BROKAGE_ORDERS_DATABASE_URL", "postgresql://nowhere")
        assert (Settings().market_close, Settings().market_timezone) == (time(18), "Europe/Istanbul")
        monkeypatch.setenv("BROKAGE_MARKET_CLOSE", "17:30")
        monkeypatch.setenv("BROKAGE_MARKET_TIMEZONE", "America/New_York")
        assert (Settings().market_close, Settings().market_timezone) == (time(17, 30), "America/New_York")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("CLOSE", "25:00"),
            ("CLOSE", "18:00+03:00"),
            ("CLOSE", "evening"),
            ("TIMEZONE", "Europe/Atlantis"),
            ("TIMEZONE", "../etc"),
        ],
    )
    def test_refuse_what_is_neither(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        monkeypatch.setenv("BROKAGE_ORDERS_DATABASE_URL", "postgresql://nowhere")
        monkeypatch.setenv(f"BROKAGE_MARKET_{name}", value)
        with pytest.raises(ValidationError):
            Settings()
