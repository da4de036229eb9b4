"""`$dateTrunc` and `$dateToString` over naive UTC datetimes, with IANA time zones and fixed offsets."""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from infra.mongo_server.errors import CommandError, bad_value

_REFERENCE: Final = datetime(2000, 1, 1)  # noqa: DTZ001 - local wall time from which MongoDB counts its bins
_FIXED: Final = {
    "millisecond": timedelta(milliseconds=1),
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
}
_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_OFFSET: Final = re.compile(r"([+-])(\d{2}):?(\d{2})?")


def _zone(name: Any) -> tzinfo:
    if name is None:
        return UTC
    if not isinstance(name, str):
        raise bad_value("a timezone must be a string")
    if match := _OFFSET.fullmatch(name):
        sign = -1 if match[1] == "-" else 1
        return timezone(sign * timedelta(hours=int(match[2]), minutes=int(match[3] or 0)))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise CommandError(40485, f"unrecognized time zone identifier: {name!r}") from error


def _require_date(name: str, date: Any) -> datetime:
    if not isinstance(date, datetime):
        raise CommandError(14, f"{name} needs a date, not {type(date).__name__}")
    return date


def date_trunc(date: Any, unit: Any, binSize: Any = 1, timezone: Any = None, startOfWeek: Any = "sunday") -> Any:
    """The start of the bin, counted from 2000-01-01 on the zone's own clock (hours and less: on the absolute one)."""
    if date is None or unit is None or binSize is None:
        return None
    date = _require_date("$dateTrunc", date)
    if type(binSize) is not int or binSize < 1:
        raise bad_value("$dateTrunc's binSize must be a whole number above 0")
    zone = _zone(timezone)
    local = date.replace(tzinfo=UTC).astimezone(zone).replace(tzinfo=None)
    if unit in _MONTHS:
        step = _MONTHS[unit] * binSize
        months = ((local.year - 2000) * 12 + local.month - 1) // step * step
        start = _REFERENCE.replace(year=2000 + months // 12, month=months % 12 + 1)
    elif unit in ("day", "week"):
        origin = _REFERENCE + timedelta(days=_first_weekday(startOfWeek)) if unit == "week" else _REFERENCE
        step_length = _FIXED[unit] * binSize
        start = origin + (local - origin) // step_length * step_length
    elif unit in _FIXED:
        step_length = _FIXED[unit] * binSize
        origin = _REFERENCE.replace(tzinfo=zone).astimezone(UTC).replace(tzinfo=None)
        return origin + (date - origin) // step_length * step_length
    else:
        raise CommandError(9, f"unknown time unit value: {unit!r}")
    return start.replace(tzinfo=zone).astimezone(UTC).replace(tzinfo=None)


def _first_weekday(name: Any) -> int:
    """Days from 2000-01-01, a Saturday, to the first such weekday."""
    short = str(name).lower()[:3]
    if short not in _WEEKDAYS:
        raise bad_value(f"unknown startOfWeek {name!r}")
    return (_WEEKDAYS.index(short) - _WEEKDAYS.index("sat")) % 7


def date_to_string(date: Any, format: Any = None, timezone: Any = None, onNull: Any = None) -> Any:
    if date is None:
        return onNull
    zone = _zone(timezone)
    local = _require_date("$dateToString", date).replace(tzinfo=UTC).astimezone(zone)
    if format is None:
        format = "%Y-%m-%dT%H:%M:%S.%LZ" if timezone is None else "%Y-%m-%dT%H:%M:%S.%L"
    if not isinstance(format, str):
        raise bad_value("$dateToString's format must be a string")
    return re.sub(r"%(.?)", lambda match: _format_part(match[1], local), format)


def _format_part(part: str, local: datetime) -> str:
    offset = local.utcoffset() or timedelta()
    match part:
        case "L":
            return f"{local.microsecond // 1000:03d}"
        case "Y":
            return f"{local.year:04d}"
        case "u":
            return str(local.isoweekday())
        case "z":
            return local.strftime("%z")
        case "Z":
            return str(offset // timedelta(minutes=1))
        case "%":
            return "%"
        case "d" | "H" | "j" | "m" | "M" | "S" | "G" | "V":
            return local.strftime("%" + part)
    raise CommandError(18536, f"invalid format character '%{part}'")
