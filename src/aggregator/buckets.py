"""The calendar: where the buckets of an interval begin in a time zone. Pure.

Boundaries are instants (UTC microseconds), found from the zone's own rules: a day is 23 or 25 hours long where the
clocks change, a day that a zone skipped has no bucket, and an hour that happens twice has two. The store only ever
sees instants, so its own time zone tables never matter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal, get_args

Interval = Literal["minute", "hour", "day", "week", "month", "year", "total"]
INTERVALS: tuple[Interval, ...] = get_args(Interval)

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
QUARTER_US = 15 * MINUTE_US  # every UTC offset in use is a multiple of it
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MONDAY = date(1970, 1, 5)  # the first of them
DAY_SECONDS = 86_400


def to_us(moment: datetime) -> int:
    """Microseconds since 1970, exact (a float timestamp is not)."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def from_us(micros: int, zone: tzinfo = UTC) -> datetime:
    return (EPOCH + timedelta(microseconds=micros)).astimezone(zone)


def midnight_us(day: date, zone: tzinfo) -> int:
    """When `day` begins in the zone: the instant after the gap where its midnight does not exist."""
    return to_us(datetime(day.year, day.month, day.day, tzinfo=zone))


def floor_us(moment_us: int, interval: Interval, zone: tzinfo) -> int:
    """The start of the bucket that `moment_us` lies in. `total` has one bucket, so its moment is its own start."""
    if interval == "total":
        return moment_us
    if interval == "minute":
        return moment_us - moment_us % MINUTE_US
    if interval == "hour":
        return _floor_hour(moment_us, zone)
    first = _first_day(from_us(moment_us, zone).date(), interval)
    start = midnight_us(first, zone)
    # A midnight that happens twice belongs to the first time; a moment in between is still that day's.
    return start if start <= moment_us else midnight_us(_first_day(first - timedelta(days=1), interval), zone)


def boundaries(start_us: int, end_us: int, interval: Interval, zone: tzinfo) -> Iterator[int]:
    """The starts of the buckets of `[start_us, end_us)`, rising; the first is `start_us` itself, also amid a bucket."""
    return _within(start_us, end_us, _starts_after(start_us, interval, zone))


def stepped(start_us: int, end_us: int, seconds: int, zone: tzinfo) -> Iterator[int]:
    """Like `boundaries`, for buckets of so many seconds.

    Whole weeks begin on a Monday and whole days at midnight (several are counted from January 1970, in which Monday
    was the 5th), whole hours up to a day at full hours counted from each midnight, all by the zone's clock. Every
    other size is counted from 1970 UTC, whatever the zone.
    """
    return _within(start_us, end_us, _steps_after(start_us, seconds, zone))


def _within(start_us: int, end_us: int, starts: Iterator[int]) -> Iterator[int]:
    if start_us >= end_us:
        return
    yield start_us
    previous = start_us
    for boundary in starts:
        if boundary >= end_us:
            return
        if boundary > previous:
            yield boundary
            previous = boundary


def _starts_after(start_us: int, interval: Interval, zone: tzinfo) -> Iterator[int]:
    if interval == "total":
        return
    if interval == "minute":
        moment = floor_us(start_us, interval, zone)
        while True:
            moment += MINUTE_US
            yield moment
    if interval == "hour":
        moment = _floor_hour(start_us, zone)
        while True:
            moment = _next_hour(moment, zone)
            yield moment
    day = _first_day(from_us(start_us, zone).date(), interval)
    while True:
        day = _next_first_day(day, interval)
        yield midnight_us(day, zone)


def _steps_after(start_us: int, seconds: int, zone: tzinfo) -> Iterator[int]:
    if seconds % DAY_SECONDS == 0:
        days = seconds // DAY_SECONDS
        first = MONDAY if days % 7 == 0 else EPOCH.date()
        day = from_us(start_us, zone).date()
        day -= timedelta(days=(day - first).days % days)
        while True:
            day += timedelta(days=days)
            yield midnight_us(day, zone)
    if seconds % 3600 == 0 and seconds < DAY_SECONDS:
        # From the evening before, since a midnight that happens twice puts a moment before its day's start.
        day = from_us(start_us, zone).date() - timedelta(days=1)
        while True:
            for hour in range(0, 24, seconds // 3600):
                yield to_us(datetime(day.year, day.month, day.day, hour, tzinfo=zone))
            day += timedelta(days=1)
    step_us = seconds * 1_000_000
    moment = start_us - start_us % step_us
    while True:
        moment += step_us
        yield moment


def _floor_hour(moment_us: int, zone: tzinfo) -> int:
    """Back to the last instant at which the zone's clock showed a full hour."""
    probe = moment_us - _past_the_hour(moment_us, zone)
    while _past_the_hour(probe, zone):  # a half-hour change of the clocks lies in between (Lord Howe)
        probe = probe - probe % QUARTER_US if probe % QUARTER_US else probe - QUARTER_US
    return probe


def _next_hour(hour_us: int, zone: tzinfo) -> int:
    if not _past_the_hour(hour_us + HOUR_US, zone):
        return hour_us + HOUR_US
    probe = hour_us - hour_us % QUARTER_US + QUARTER_US
    while _past_the_hour(probe, zone):
        probe += QUARTER_US
    return probe


def _past_the_hour(moment_us: int, zone: tzinfo) -> int:
    offset = from_us(moment_us, zone).utcoffset() or timedelta()
    return (moment_us + offset // timedelta(microseconds=1)) % HOUR_US


def _first_day(day: date, interval: Interval) -> date:
    if interval == "week":
        return day - timedelta(days=day.weekday())
    if interval == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if interval == "year" else day


def _next_first_day(day: date, interval: Interval) -> date:
    if interval == "month":
        return (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    if interval == "year":
        return day.replace(year=day.year + 1)
    return day + timedelta(days=7 if interval == "week" else 1)


@dataclass(frozen=True, slots=True)
class Run:
    """`count` boundaries, `step` microseconds apart: a year of hours is three runs, however many hours."""

    first: int
    step: int
    count: int


def runs(bounds: Iterable[int]) -> list[Run]:
    """The boundaries as arithmetic runs: a few numbers to bind instead of thousands."""
    found: list[Run] = []
    for bound in bounds:
        last = found[-1] if found else None
        if last is not None and last.count == 1:
            found[-1] = Run(last.first, bound - last.first, 2)
        elif last is not None and bound == last.first + last.step * last.count:
            found[-1] = Run(last.first, last.step, last.count + 1)
        else:
            found.append(Run(bound, 0, 1))
    return found


@dataclass(frozen=True, slots=True)
class Shift:
    """From `start_us` on the zone's clocks are `offset_us` ahead of UTC; `text` is that as ISO 8601 writes it."""

    start_us: int
    offset_us: int
    text: str


def shifts(start_us: int, end_us: int, zone: tzinfo) -> list[Shift]:
    """The offsets that hold in `[start_us, end_us)`, rising; the first from `start_us` on.

    No zone has changed its clocks twice within a day since 1970 (the shortest that one ever kept was a week), so a
    look at each day finds every change.
    """
    found = [_shift(start_us, zone)]
    for probe in (*range(start_us + DAY_US, end_us, DAY_US), end_us - 1):
        if _offset_us(probe, zone) != found[-1].offset_us:
            found.append(_shift(_change(max(found[-1].start_us, probe - DAY_US), probe, zone), zone))
    return found


def _change(before_us: int, after_us: int, zone: tzinfo) -> int:
    """The first instant, a whole second, at which the offset is no longer that of `before_us`."""
    old, low, high = _offset_us(before_us, zone), before_us // SECOND_US, after_us // SECOND_US
    while low < high:
        middle = (low + high) // 2
        if _offset_us(middle * SECOND_US, zone) == old:
            low = middle + 1
        else:
            high = middle
    return low * SECOND_US


def _shift(instant_us: int, zone: tzinfo) -> Shift:
    return Shift(
        instant_us, _offset_us(instant_us, zone), from_us(instant_us, zone).isoformat(" ", "microseconds")[26:]
    )


def _offset_us(instant_us: int, zone: tzinfo) -> int:
    return (from_us(instant_us, zone).utcoffset() or timedelta()) // timedelta(microseconds=1)
