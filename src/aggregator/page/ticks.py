"""Where the labels of a time axis stand, and what they say: where the zone's calendar turns, never in between. Pure.

The axis has one place per bucket, so a day of 25 hours has 25 places and a month is as wide as another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache

from aggregator.buckets import Interval, from_us
from aggregator.page.wording import MONTHS

KEPT = 64  # axes, at most some megabytes: all figures of a page have the same one
MAX_TICKS = 13  # a year of months and the one before; a narrower chart drops every other one

Turn = Callable[[datetime], object]
"""What stays the same between two labels."""

Lines = Callable[[datetime], tuple[str, str]]
"""A label's two lines; the second may be empty."""


@dataclass(frozen=True, slots=True)
class Tick:
    """At which bucket, and one or two lines."""

    index: int
    lines: tuple[str, ...]


def ticks(bounds: Sequence[int], interval: Interval, zone: tzinfo) -> tuple[Tick, ...]:
    """Up to thirteen labels: full hours, midnights, Mondays, months, years.

    The second line says what the first leaves out (the day of an hour, the year of a day), wherever it changes.
    """
    return _ticks(tuple(bounds), interval, zone)


@lru_cache(KEPT)
def _ticks(bounds: tuple[int, ...], interval: Interval, zone: tzinfo) -> tuple[Tick, ...]:
    starts = [from_us(bound, zone) for bound in bounds]
    chosen = list(range(len(starts))) if len(starts) <= MAX_TICKS else _chosen(starts)
    lines = _style([starts[index] for index in chosen], interval)
    found, above = [], ""
    for index in chosen:
        first, second = lines(starts[index])
        found.append(Tick(index, (first, second) if second != above else (first,)))
        above = second
    return tuple(found)


def _minutes(count: int) -> Turn:
    return lambda moment: (moment.date(), moment.hour, moment.minute // count)


def _hours(count: int) -> Turn:
    return lambda moment: (moment.date(), moment.hour // count)


def _weeks(count: int) -> Turn:
    return lambda moment: (moment - timedelta(days=moment.weekday())).toordinal() // (7 * count)


def _months(count: int) -> Turn:
    return lambda moment: (moment.year, (moment.month - 1) // count)


def _years(count: int) -> Turn:
    return lambda moment: moment.year // count


_TURNS: tuple[Turn, ...] = (
    *map(_minutes, (1, 2, 5, 10, 15, 30)),
    *map(_hours, (1, 2, 3, 6, 12)),
    lambda moment: moment.date(),
    *map(_weeks, (1, 2)),
    *map(_months, (1, 3, 6)),
    *map(_years, (1, 2, 5, 10, 20, 50)),
)


def _chosen(starts: Sequence[datetime]) -> list[int]:
    """Where the finest turn that needs no more labels than there is room for has its turns."""
    for turn in _TURNS:
        marks = [turn(starts[0] - timedelta(microseconds=1)), *map(turn, starts)]
        found = [index for index in range(len(starts)) if marks[index] != marks[index + 1]]
        if found and len(found) <= MAX_TICKS:
            return found
    return [0]


def _style(moments: Sequence[datetime], interval: Interval) -> Lines:
    """The coarsest wording that tells the moments apart."""
    several = len(moments) > 1
    if interval == "year" or (several and all((moment.month, moment.day) == (1, 1) for moment in moments)):
        return _year
    if interval == "month" or (several and all(moment.day == 1 and not moment.hour for moment in moments)):
        return _month
    if interval in ("minute", "hour") and any(moment.hour or moment.minute for moment in moments):
        return _time
    return _date


def _year(moment: datetime) -> tuple[str, str]:
    return str(moment.year), ""


def _month(moment: datetime) -> tuple[str, str]:
    return MONTHS[moment.month - 1], str(moment.year)


def _date(moment: datetime) -> tuple[str, str]:
    return f"{moment.day} {MONTHS[moment.month - 1]}", str(moment.year)


def _time(moment: datetime) -> tuple[str, str]:
    return f"{moment:%H:%M}", f"{moment.day} {MONTHS[moment.month - 1]}"
