"""How a range is answered: by the largest clean buckets that fit what is asked, and by raw calls in between. Pure.

A level is one rollup table. A bucket of it may stand for its calls only if it is clean (nothing came since it was
computed) and lies inside one asked bucket; what no level may answer is read from the calls themselves.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from typing import NamedTuple

from aggregator.buckets import DAY_US, HOUR_US, QUARTER_US, floor_us, from_us, midnight_us


class Span(NamedTuple):
    """`[start_us, end_us)`."""

    start_us: int
    end_us: int


@dataclass(frozen=True, slots=True)
class Level:
    """The buckets of one table, in UTC. `width_us` is None for months, which differ."""

    name: str
    table: str
    width_us: int | None

    def floor(self, moment_us: int) -> int:
        """The start of the bucket that the moment lies in."""
        if self.width_us is not None:
            return moment_us - moment_us % self.width_us
        return floor_us(moment_us, "month", UTC)

    def next(self, start_us: int) -> int:
        """Where the bucket that starts there ends."""
        if self.width_us is not None:
            return start_us + self.width_us
        day = from_us(start_us).date()
        return midnight_us(day.replace(year=day.year + day.month // 12, month=day.month % 12 + 1), UTC)

    def ceiling(self, moment_us: int) -> int:
        floor = self.floor(moment_us)
        return floor if floor == moment_us else self.next(floor)

    @property
    def least_us(self) -> int:
        """The length of its shortest bucket."""
        return self.width_us if self.width_us is not None else 28 * DAY_US


QUARTERS = Level("15m", "usage_15m", QUARTER_US)
HOURS = Level("1h", "usage_1h", HOUR_US)
DAYS = Level("1d", "usage_1d", DAY_US)
MONTHS = Level("1mo", "usage_1mo", None)
USAGE_LEVELS = (QUARTERS, HOURS, DAYS, MONTHS)
"""Each is computed from the one before it, the first from the calls."""

PEAKS = Level("peaks", "peaks_15m", QUARTER_US)
"""Concurrency: of a call's interval, not of its start, so a bucket depends on calls that began before it."""

LEVELS = (*USAGE_LEVELS, PEAKS)


def spans_of(level: Level, buckets: Iterable[int]) -> list[Span]:
    """Rising buckets, those beside one another as one span."""
    spans: list[Span] = []
    for bucket in buckets:
        if spans and spans[-1].end_us == bucket:
            spans[-1] = Span(spans[-1].start_us, level.next(bucket))
        else:
            spans.append(Span(bucket, level.next(bucket)))
    return spans


@dataclass(frozen=True, slots=True)
class Segment:
    """Whole buckets of a level that stand beside one another, or (without a level) a stretch of calls."""

    level: Level | None
    start_us: int
    end_us: int


def cover(
    start_us: int,
    end_us: int,
    bounds: Sequence[int],
    dirty: Mapping[Level, Sequence[Span]],
    levels: Iterable[Level] = USAGE_LEVELS,
) -> list[Segment]:
    """`[start_us, end_us)` in rising segments without a gap.

    `bounds` are the starts of the asked buckets; `dirty` are, for each level, the rising spans of whole buckets that
    must not be used (changed since, or never computed).
    """
    longest = max((b - a for a, b in zip(bounds, [*bounds[1:], end_us], strict=True)), default=0)
    usable = sorted((one for one in levels if one.least_us <= longest), key=lambda one: -one.least_us)
    found: list[Segment] = []
    _fill(Span(start_us, end_us), usable, bounds, dirty, found)
    return joined(found)


def _fill(
    span: Span,
    levels: Sequence[Level],
    bounds: Sequence[int],
    dirty: Mapping[Level, Sequence[Span]],
    found: list[Segment],
) -> None:
    """Cover the span with the first of the levels, and what that cannot with the others."""
    if span.start_us >= span.end_us:
        return
    if not levels:
        found.append(Segment(None, *span))
        return
    level, *finer = levels
    first, last = level.ceiling(span.start_us), level.floor(span.end_us)
    if first >= last:
        _fill(span, finer, bounds, dirty, found)
        return
    position = span.start_us
    for blocked in (Span(span.start_us, first), *_blocked(Span(first, last), level, bounds, dirty.get(level, ()))):
        if position < blocked.start_us:
            found.append(Segment(level, position, blocked.start_us))
        _fill(Span(max(position, blocked.start_us), blocked.end_us), finer, bounds, dirty, found)
        position = max(position, blocked.end_us)
    if position < last:
        found.append(Segment(level, position, last))
    _fill(Span(last, span.end_us), finer, bounds, dirty, found)


def _blocked(span: Span, level: Level, bounds: Sequence[int], dirty: Sequence[Span]) -> list[Span]:
    """The level's buckets in the span that are dirty, or in which an asked bucket begins after their own start."""
    found = []
    for bound in bounds[bisect_right(bounds, span.start_us) : bisect_left(bounds, span.end_us)]:
        start = level.floor(bound)
        if start != bound:
            found.append(Span(start, level.next(start)))
    index = bisect_right(dirty, span.start_us, key=lambda one: one.end_us)
    while index < len(dirty) and dirty[index].start_us < span.end_us:
        one = dirty[index]
        found.append(Span(max(one.start_us, span.start_us), min(one.end_us, span.end_us)))
        index += 1
    return sorted(found)


def joined(segments: Iterable[Segment]) -> list[Segment]:
    """The same with neighbours of one level as one segment."""
    found: list[Segment] = []
    for one in segments:
        if found and found[-1].level == one.level and found[-1].end_us == one.start_us:
            found[-1] = Segment(one.level, found[-1].start_us, one.end_us)
        else:
            found.append(one)
    return found
