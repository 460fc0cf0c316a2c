"""Answers for tests of what is made of them: made by hand, so that each number is known."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from aggregator.buckets import Interval, to_us
from aggregator.measures import Number, is_additive
from aggregator.query import Series, UsageAnswer, UsageQuery

FIRST = datetime(2026, 3, 2)  # noqa: DTZ001  # local to the zone of the answer; a Monday
ENDLESS = to_us(datetime(2100, 1, 1, tzinfo=UTC))

Values = Sequence[Number | None]


def answer(
    series: Mapping[str, Values] | Values,
    *,
    metric: str = "credits",
    interval: Interval = "day",
    zone: str = "UTC",
    start: datetime = FIRST,
    end: datetime | None = None,
    dimension: str = "voice",
    complete_until_us: int = ENDLESS,
    **query: Any,
) -> UsageAnswer:
    """One metric, a series per name, or one without a name; the range is as long as the values are."""
    named = series if isinstance(series, Mapping) else {"": series}
    here = ZoneInfo(zone)
    start_us = to_us(start.replace(tzinfo=here))
    count = max(map(len, named.values()), default=0)
    end_us = to_us(end.replace(tzinfo=here)) if end else _end(start_us, interval, here, count)
    breakdown = (dimension,) if isinstance(series, Mapping) else ()
    asked = UsageQuery(start_us, end_us, here, zone, interval, metrics=(metric,), breakdown=breakdown, **query)
    found = [
        Series(metric, dict.fromkeys(breakdown, name), list(values), _total(metric, values))
        for name, values in named.items()
    ]
    return UsageAnswer(asked, asked.bounds(), found, complete_until_us)


def _total(metric: str, values: Values) -> Number | None:
    known = [value for value in values if value is not None]
    return sum(known) if is_additive(metric) else max(known, default=None)


def _end(start_us: int, interval: Interval, zone: ZoneInfo, count: int) -> int:
    far = UsageQuery(start_us, ENDLESS, zone, interval=interval).bounds()
    return far[count] if interval != "total" else start_us + 1
