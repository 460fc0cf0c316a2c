"""How names, numbers and moments are written for people. Pure.

A number has as many digits as one reads; whoever shows it keeps the exact one beside it. English throughout; the
process's locale never matters.
"""

from datetime import UTC, datetime, tzinfo
from itertools import islice
from string import ascii_letters, digits

from aggregator.buckets import Interval, boundaries, from_us
from aggregator.dimensions import ATTRIBUTE, QUANTITY
from aggregator.measures import METRICS, Number, unit
from aggregator.query import OTHER, Series
from usage_meter.event import MAX_TIME_US

NOTHING = "–"

METRIC_NAMES = {
    "credits": "Credits",
    "requests": "API requests",
    "errors": "Failed requests",
    "success_rate": "Success rate",
    "latency_avg": "Average latency",
    "latency_p50": "Median latency",
    "latency_p95": "Latency, 95th percentile",
    "latency_p99": "Latency, 99th percentile",
    "ttfb_avg": "Average time to first byte",
    "ttfb_p95": "Time to first byte, 95th percentile",
    "concurrency": "Peak concurrent requests",
    "concurrency_average": "Average concurrent requests",
    "request_bytes": "Data received",
    "response_bytes": "Data sent",
}
DIMENSION_NAMES = {"api_key": "API key", "kind": "Kind", "source": "Source"}
VALUE_NAMES = {
    "outcome": {
        "ok": "Success",
        "client_error": "Client error",
        "server_error": "Server error",
        "exception": "Exception",
        "disconnected": "Disconnected",
    },
    "kind": {"request": "API request", "webhook": "Webhook"},
}
"""Of dimensions whose values everybody knows."""

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
LONG_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
INTERVAL_NAMES: dict[Interval, str] = {
    "minute": "Minute", "hour": "Hour", "day": "Day", "week": "Week", "month": "Month", "year": "Year",
    "total": "Total",
}  # fmt: skip

DAY_US = 86_400_000_000
_LAST_UNITS = {"m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}
SECONDS_FROM_MS = 999.5  # everywhere: in a text, and on an axis that reaches this far
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def metric_name(name: str) -> str:
    return METRIC_NAMES.get(name) or _sentence(name.removeprefix(QUANTITY))


def dimension_name(name: str) -> str:
    return DIMENSION_NAMES.get(name) or _sentence(name.removeprefix(ATTRIBUTE))


def _sentence(identifier: str) -> str:
    words = identifier.replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def value_name(value: str, dimension: str = "") -> str:
    """A dimension's value; all that is beyond the top list, and the calls that have none, by a name of their own."""
    return "Other" if value == OTHER else VALUE_NAMES.get(dimension, {}).get(value) or value or "(none)"


def series_name(series: Series) -> str:
    if OTHER in series.key.values():
        return "Other"
    shown = [series.names.get(dimension) or value_name(value, dimension) for dimension, value in series.key.items()]
    return " · ".join(shown) if shown else "All"


def is_counted(name: str) -> bool:
    """Whether it is a count of something, which needs no unit behind it, or a measurement."""
    return name.startswith(QUANTITY) or METRICS[name].unit in ("credits", "requests")


def written(value: Number | None, metric: str) -> str:
    """A metric's value with its unit where the number alone would not say it: `1,234.5`, `99.31 %`, `132 ms`."""
    if value is None:
        return NOTHING
    if is_counted(metric):
        return counted(value)
    what = unit(metric)
    if what == "ratio":
        return _percent(float(value))
    if what == "ms":
        return _milliseconds(float(value))
    return _bytes(float(value)) if what == "bytes" else _decimals(float(value), 2)


def counted(value: Number) -> str:
    """Thousands apart; whole from a thousand on, else with two decimals where it has them."""
    return _decimals(value, 0 if abs(float(value)) >= 1000 else 2)


def share(part: Number | None, whole: Number | None) -> float | None:
    """0 to 1; None where there is nothing to share, or a refund turned the sign."""
    if not part or not whole or float(whole) <= 0 or float(part) < 0:
        return None
    return min(1.0, float(part) / float(whole))


def percent(fraction: float | None) -> str:
    """A share in whole percents; what is there but less than half a percent is not written as nothing."""
    if fraction is None:
        return NOTHING
    return "< 1 %" if 0 < fraction < 0.005 else f"{fraction * 100:.0f} %"


def change(now: Number | None, before: Number | None) -> str:
    """From the span before to this one: `+4.2 %`, `−12 %`, `× 3.1`; empty where there was nothing to compare with."""
    if now is None or not before or float(before) < 0:
        return ""
    ratio = float(now) / float(before)
    if ratio >= 2:
        return f"× {_decimals(ratio, 1)}"
    percents = (ratio - 1) * 100
    text = _decimals(abs(percents), 1 if abs(percents) < 10 else 0)
    return "± 0 %" if text == "0" else f"{'+' if percents > 0 else '−'}{text} %"


def _percent(fraction: float) -> str:
    """Hundredths, cut and not rounded: one failure in a million is not 100 %."""
    return f"{int(fraction * 10_000 + 1e-9) / 100:g} %"


def _milliseconds(value: float) -> str:
    """Three digits from ten milliseconds on: `0.42 ms`, `132 ms`, `6.16 s`, `31.7 s`, `1,240 s`."""
    if value >= SECONDS_FROM_MS:
        seconds = value / 1000
        return f"{_decimals(seconds, 2 if seconds < 9.995 else 1 if seconds < 99.95 else 0)} s"
    return f"{_decimals(value, 0 if value >= 10 else 2)} ms"


def _bytes(value: float) -> str:
    power = 0
    while abs(value) >= 1000 and power < len(_BYTE_UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{_decimals(value, 2 if power else 0)} {_BYTE_UNITS[power]}"


def _decimals(value: Number, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def day(moment: datetime) -> str:
    return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year}"


def moment_name(micros: int, zone: tzinfo) -> str:
    """`10 Mar 2026, 14:05:30` in the zone."""
    moment = from_us(micros, zone)
    return f"{day(moment)}, {moment:%H:%M:%S}"


def bucket_end_us(start_us: int, interval: Interval, zone: tzinfo) -> int:
    """When the bucket that begins there is over, also where a view ends earlier."""
    return next(islice(boundaries(start_us, MAX_TIME_US, interval, zone), 1, None), MAX_TIME_US)


def bucket_name(start_us: int, interval: Interval, zone: tzinfo) -> str:
    """A bucket by name: `Tue 10 Mar 2026`, `Tue 10 Mar 2026, 14:00`, `Week of 9 Mar 2026`, `March 2026`."""
    start = from_us(start_us, zone)
    if interval == "year":
        return str(start.year)
    if interval == "month":
        return f"{LONG_MONTHS[start.month - 1]} {start.year}"
    if interval == "week":
        return f"Week of {day(start)}"
    date = f"{WEEKDAYS[start.weekday()]} {day(start)}"
    if interval in ("minute", "hour"):
        return f"{date}, {start:%H:%M}{_offset_if_ambiguous(start)}"
    return date


def range_name(start_us: int, end_us: int, zone: tzinfo) -> str:
    """`10 Mar – 12 Apr 2026`; with the time of day where it is short and of no whole days."""
    first, last, until = from_us(start_us, zone), from_us(end_us - 1, zone), from_us(end_us, zone)
    whole_days = not any((first.hour, first.minute, until.hour, until.minute))
    if end_us - start_us <= 2 * DAY_US and not whole_days:
        same = first.date() == until.date()
        return f"{day(first)}, {first:%H:%M} – {'' if same else day(until) + ', '}{until:%H:%M}"
    if first.date() == last.date():
        return day(first)
    month = "" if (first.year, first.month) == (last.year, last.month) else f" {MONTHS[first.month - 1]}"
    year = "" if first.year == last.year else f" {first.year}"
    return f"{first.day}{month}{year} – {day(last)}"


def last_name(last: str) -> str:
    """A range that ends now, as the API spells it, for people: `60d` is `Last 60 days`."""
    number, unit = last.rstrip(ascii_letters), last.lstrip(digits)
    if unit not in _LAST_UNITS:
        return f"Last {last}"
    return f"Last {_LAST_UNITS[unit]}" if number == "1" else f"Last {number} {_LAST_UNITS[unit]}s"


def _offset_if_ambiguous(moment: datetime) -> str:
    """The offset, where the clock shows this time twice."""
    offset, other = moment.utcoffset(), moment.replace(fold=1 - moment.fold).utcoffset()
    if offset == other or offset is None or other is None or moment.astimezone(UTC).astimezone(moment.tzinfo) != moment:
        return ""
    minutes = int(offset.total_seconds() // 60)
    return f" (UTC{'+' if minutes >= 0 else '−'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02})"
