"""What the rollups have yet to take in, derived from the store itself, so that it cannot be forgotten.

A bucket is dirty when rows came into it (`arrivals`, a projection of events: schema.sql) later than the moment up to
which its published version had seen all, or when it has none; and when that moment is yet to come, since the store's
clock has been set back: what comes from now on would be taken for a part of it. What is known is kept here and read
again only for days that changed: the store says which by the numbers of its parts. One answer costs one small question,
as a rule.
"""

import math
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import chain, pairwise
from typing import Any, Protocol, TypeVar

from aggregator.buckets import DAY_US, QUARTER_US
from aggregator.cover import LEVELS, PEAKS, QUARTERS, USAGE_LEVELS, Level, Span, spans_of
from aggregator.cubes import FORMAT
from aggregator.dimensions import Binder
from aggregator.query import Statement

_AHEAD_US = 2 * DAY_US  # beyond now: no call begins later than a day ahead, so what is later has no bucket to be in
_AGAIN_US = 3_600_000_000  # pointers that old are read again: a slow run may publish a lower version late
_RANGES = 200  # of days in one statement: a server takes a thousand bound values
VERSION_BITS = 12  # of a version are random, below its microseconds: two aggregators never choose the same

PARTS = Statement(
    "SELECT table, partition_id, max_block_number, data_version, toUnixTimestamp64Micro(now64(6)) FROM system.parts "
    "WHERE database = currentDatabase() AND table IN ('events', 'published', 'labels') AND active AND rows > 0",
    {},
)
"""Every question asks for them, so they are put together here and not by the engine, which takes longer. With each
comes the store's clock."""


T = TypeVar("T")


class Selects(Protocol):
    def select(self, statement: Statement) -> Sequence[Sequence[Any]]: ...


def arrivals_statements(days: Iterable[str]) -> Iterator[Statement]:
    """Rows `(bucket, number of the quarter in which the calls end, newest insert in microseconds, rows)` of these days,
    which rise and are named as partitions are."""
    runs: list[list[date]] = []  # without a gap: years of days are one range, as a rule
    for day in map(date.fromisoformat, days):
        if runs and runs[-1][-1] + timedelta(days=1) == day:
            runs[-1].append(day)
        else:
            runs.append([day])
    for at in range(0, len(runs), _RANGES):
        yield _arrivals_statement(runs[at : at + _RANGES])


def _arrivals_statement(runs: Iterable[Sequence[date]]) -> Statement:
    bind = Binder()
    ranges = " OR ".join(
        f"(bucket >= toDateTime({(start := bind(f'{run[0]} 00:00:00', 'String'))}, 'UTC') "
        f"AND bucket < toDateTime({start}, 'UTC') + {bind(len(run) * 86_400, 'UInt32')})"
        for run in runs
    )
    return Statement(
        "SELECT toUnixTimestamp(bucket), until, toUnixTimestamp64Micro(newest), n FROM ("
        "SELECT toStartOfFifteenMinutes(started) AS bucket, "
        "intDiv(toUnixTimestamp64Micro(started) + duration_us, 900000000) AS until, "
        f"max(inserted) AS newest, count() AS n FROM events WHERE {ranges} GROUP BY bucket, until)",
        bind.parameters,
    )


PUBLISHED = ("level", "bucket", "version", "computed", "format")
"""The columns of a pointer: the level's name, Unix seconds, the version, Unix microseconds, the format."""


def pointers_statement(since_version: int) -> Statement:
    """Rows `(level, bucket, version, computed in microseconds, format)`."""
    bind = Binder()
    return Statement(
        "SELECT level, toUnixTimestamp(bucket), version, toUnixTimestamp64Micro(computed), format FROM published "
        f"WHERE version >= {bind(since_version, 'UInt64')}",
        bind.parameters,
    )


@dataclass(frozen=True, slots=True)
class Pointer:
    """A bucket's published version, the moment up to which whatever was inserted is in it, and its rows' format."""

    version: int
    computed_us: int
    format: int


@dataclass(slots=True)
class _Day:
    """What came into one day of events."""

    newest_us: dict[int, int] = field(default_factory=dict)
    """By quarter of an hour: the newest insert of calls that began in it."""
    rows: dict[int, int] = field(default_factory=dict)
    in_flight: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By quarter of an hour: the newest insert of calls with a part in it, and where the earliest of them began."""
    until_us: float = math.inf
    """Up to where `in_flight` tells of them all."""


class Freshness:
    """Shared by threads: everything goes through `ask`."""

    def __init__(self, store: Selects) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._marks: dict[str, tuple[int, int]] = {}
        self._days: dict[str, _Day] = {}
        self._published_mark: tuple[int, int] | None = None
        self._pointers: dict[Level, dict[int, Pointer]] = {level: {} for level in LEVELS}
        self._computed_us = 0  # of the pointers, the latest
        self._now_us = 0  # the store's clock
        self._rising: dict[Level, list[int]] = {}  # the buckets of these pointers, rising
        self._newest: dict[Level, dict[int, int]] = {level: {} for level in LEVELS}
        self._old: dict[Level, set[int]] = {level: set() for level in LEVELS}
        """The buckets whose rows are of an older format."""
        self._dirty: dict[Level, set[int]] = {level: set() for level in LEVELS}
        self._spans: dict[Level, list[Span]] = {}
        self._looks = 0  # begun
        self._looked = 0  # the last that succeeded
        self.labels_mark: tuple[int, int] | None = None
        """Changes when the labels do; None while there are none."""
        self.newest_version = 0
        """Of all that were published."""

    def ask(self, question: Callable[["Freshness"], T]) -> T:
        """What `question` makes of the store as it is now, by the methods below; nothing changes meanwhile.

        Those who wait for one another share a look at the store: it must only have begun after they came.
        """
        looks_before = self._looks
        with self._lock:
            if self._looked <= looks_before:
                self._looks += 1
                self._refresh()
                self._looked = self._looks
            return question(self)

    def dirty(self, level: Level) -> Sequence[Span]:
        """The spans of its dirty buckets, rising."""
        if level not in self._spans:
            self._spans[level] = spans_of(level, sorted(self._dirty[level]))
        return self._spans[level]

    def dirty_buckets(self, level: Level) -> list[int]:
        """Their starts, rising."""
        return sorted(self._dirty[level])

    def has_dirty(self, level: Level, span: Span) -> bool:
        """Whether any of the level's buckets in the span is dirty."""
        spans = self.dirty(level)
        following = bisect_right(spans, span.start_us, key=lambda one: one.end_us)
        return following < len(spans) and spans[following].start_us < span.end_us

    def versions(self, level: Level, spans: Iterable[Span]) -> list[tuple[int, int]]:
        """The buckets in these spans that have a published version, each with it."""
        pointers, rising = self._pointers[level], self._rising.get(level)
        if rising is None:
            rising = self._rising[level] = sorted(pointers)
        found = []
        for span in spans:
            inside = rising[bisect_left(rising, span.start_us) : bisect_left(rising, span.end_us)]
            found += [(bucket, pointers[bucket].version) for bucket in inside]
        return found

    def format(self, level: Level, buckets: Iterable[int]) -> int:
        """The oldest one of the published rows of these buckets."""
        old, pointers = self._old[level], self._pointers[level]
        return min((pointers[one].format for one in buckets if one in old), default=FORMAT) if old else FORMAT

    def has_calls(self, span: Span) -> bool:
        """Whether a call may have begun in the span: in one of the quarters of an hour that it touches, one did."""
        return _has_any(self._newest[QUARTERS], span)

    def has_flights(self, span: Span) -> bool:
        """Whether a call may have a part in the span."""
        known_us = min((day.until_us for day in self._days.values()), default=math.inf)
        return span.end_us > known_us or _has_any(self._newest[PEAKS], span)

    def newest_us(self, level: Level, bucket: int) -> int:
        """When the newest of the bucket's rows was inserted; 0 when it has none any more."""
        return self._newest[level].get(bucket, 0)

    def pointer(self, level: Level, bucket: int) -> Pointer | None:
        return self._pointers[level].get(bucket)

    def rows(self, level: Level, bucket: int) -> int:
        """How many rows began in that bucket, duplicates and all."""
        return self.rows_within(Span(bucket, level.next(bucket)))

    def rows_within(self, span: Span) -> int:
        """The same of a span of quarters of an hour."""
        found, start_us = 0, span.start_us
        while start_us < span.end_us:
            end_us = min(start_us - start_us % DAY_US + DAY_US, span.end_us)
            if day := self._days.get(_day_of(start_us)):
                found += sum(day.rows.get(bucket, 0) for bucket in range(start_us, end_us, QUARTER_US))
            start_us = end_us
        return found

    def holding(self, span: Span, calls: int, newest: bool) -> Span:
        """The newest part of the span, or its oldest, with so many rows in it, duplicates and all; or the whole."""
        held = 0
        for name in sorted(self._days, reverse=newest):
            rows = self._days[name].rows
            for bucket in sorted(rows, reverse=newest):
                if span.start_us <= bucket and bucket + QUARTER_US <= span.end_us:  # what lies in it as a whole
                    held += rows[bucket]
                if held >= calls:
                    return Span(bucket, span.end_us) if newest else Span(span.start_us, bucket + QUARTER_US)
        return span

    def earliest_us(self, span: Span) -> int:
        """Where the earliest quarter of an hour begins in which a call began that has a part in the span."""
        buckets = range(span.start_us, span.end_us, QUARTER_US)
        begun = [day.in_flight[one][1] for day in self._days.values() for one in buckets if one in day.in_flight]
        return min(begun, default=span.start_us)

    def _refresh(self) -> None:
        marks: dict[tuple[str, str], tuple[int, int]] = {}
        for table, part, block, version, now_us in self._store.select(PARTS):
            self._now_us = int(now_us)
            known = marks.get((str(table), str(part)), (0, 0))
            marks[str(table), str(part)] = max(known[0], block), max(known[1], version)
        days = {part: mark for (table, part), mark in marks.items() if table == "events"}
        self._read_days(days)
        self._read_pointers(marks.get(("published", "all")))
        if self._computed_us > self._now_us:
            self._doubt()
        self.labels_mark = marks.get(("labels", "all"))

    def _read_days(self, marks: Mapping[str, tuple[int, int]]) -> None:
        changed = {day for day in marks.keys() | self._marks.keys() if marks.get(day) != self._marks.get(day)}
        if not changed:
            return
        latest = time.time_ns() // 1000 + _AHEAD_US
        read = {day: _Day() for day in changed & marks.keys()}
        statements = arrivals_statements(sorted(read))
        for seconds, until, newest, count in chain.from_iterable(map(self._store.select, statements)):
            bucket = int(seconds) * 1_000_000
            day = read[_day_of(bucket)]
            if int(until) * QUARTER_US > latest:
                day.until_us = latest
            _take(day, bucket, min(int(until) * QUARTER_US, latest), int(newest), int(count))
        touched: set[int] = set()
        in_flight: set[int] = set()
        for name in changed:
            for one in (self._days.pop(name, None), read.get(name)):
                if one:
                    touched |= one.newest_us.keys()
                    in_flight |= one.in_flight.keys()
            if name in read:
                self._days[name] = read[name]
        self._marks = dict(marks)
        self._weigh(touched, in_flight)

    def _weigh(self, touched: Iterable[int], in_flight: Iterable[int]) -> None:
        """Find again what is the newest in these quarters of an hour, and in what holds them."""
        newest = self._newest[QUARTERS]
        for bucket in touched:
            day = self._days.get(_day_of(bucket))
            _set(newest, bucket, day.newest_us.get(bucket, 0) if day else 0)
        changed = set(touched)
        self._judge(QUARTERS, changed)
        for finer, level in pairwise(USAGE_LEVELS):
            changed = {level.floor(bucket) for bucket in changed}
            for bucket in changed:
                inside = _inside(self._newest[finer], finer, bucket, level.next(bucket))
                _set(self._newest[level], bucket, max(inside, default=0))
            self._judge(level, changed)
        found = dict.fromkeys(in_flight, 0)
        for day in self._days.values():
            for bucket in found.keys() & day.in_flight.keys():
                found[bucket] = max(found[bucket], day.in_flight[bucket][0])
        for bucket, value in found.items():
            _set(self._newest[PEAKS], bucket, value)
        self._judge(PEAKS, found)

    def _read_pointers(self, mark: tuple[int, int] | None) -> None:
        if mark == self._published_mark:
            return
        if mark is None or (self._published_mark and mark[0] < self._published_mark[0]):
            self._forget_pointers()
        by_name = {level.name: level for level in LEVELS}
        changed: dict[Level, set[int]] = {level: set() for level in LEVELS}
        for name, seconds, version, computed, format in self._store.select(
            pointers_statement(max(0, self.newest_version - (_AGAIN_US << VERSION_BITS)))
        ):
            level, bucket = by_name[str(name)], int(seconds) * 1_000_000
            before = self._pointers[level].get(bucket)
            if before is None or before.version < int(version):
                self._pointers[level][bucket] = Pointer(int(version), int(computed), int(format))
                (self._old[level].add if format < FORMAT else self._old[level].discard)(bucket)
                self.newest_version = max(self.newest_version, int(version))
                self._computed_us = max(self._computed_us, int(computed))
                changed[level].add(bucket)
        self._rising.clear()
        self._published_mark = mark
        for finer, level in pairwise(USAGE_LEVELS):
            changed[level] |= {level.floor(bucket) for bucket in changed[finer]}
        for level in LEVELS:
            self._judge(level, changed[level])

    def _doubt(self) -> None:
        """Judge again what was computed later than now."""
        self._computed_us = 0
        for level, pointers in self._pointers.items():
            self._computed_us = max(self._computed_us, *(one.computed_us for one in pointers.values()), 0)
            self._judge(level, [bucket for bucket, one in pointers.items() if one.computed_us > self._now_us])

    def _forget_pointers(self) -> None:
        self._rising.clear()
        self.newest_version = self._computed_us = 0
        for level in LEVELS:
            known = set(self._pointers[level])
            self._pointers[level].clear()
            self._old[level].clear()
            self._judge(level, known)

    def _judge(self, level: Level, buckets: Iterable[int]) -> None:
        dirty, newest, pointers = self._dirty[level], self._newest[level], self._pointers[level]
        for bucket in buckets:
            pointer = pointers.get(bucket)
            came, finer = newest.get(bucket, 0), self._finer_version(level, bucket)
            if pointer is None:
                is_dirty = came > 0 or finer > 0
            else:
                is_dirty = came > pointer.computed_us or finer > pointer.version or pointer.computed_us > self._now_us
            (dirty.add if is_dirty else dirty.discard)(bucket)
        self._spans.pop(level, None)

    def _finer_version(self, level: Level, bucket: int) -> int:
        """The newest version of what the bucket is computed from: also where the calls themselves are gone."""
        if level not in USAGE_LEVELS[1:]:
            return 0
        finer = USAGE_LEVELS[USAGE_LEVELS.index(level) - 1]
        inside = self.versions(finer, [Span(bucket, level.next(bucket))])
        return max((version for _, version in inside), default=0)


def _take(day: _Day, bucket: int, last: int, newest_us: int, rows: int) -> None:
    day.newest_us[bucket] = max(newest_us, day.newest_us.get(bucket, 0))
    day.rows[bucket] = day.rows.get(bucket, 0) + rows
    for reached in range(bucket, last + 1, QUARTER_US):
        newest, begun = day.in_flight.get(reached, (0, bucket))
        day.in_flight[reached] = (max(newest, newest_us), min(begun, bucket))


def _has_any(buckets: Mapping[int, int], span: Span) -> bool:
    first = QUARTERS.floor(span.start_us)
    if span.end_us - first > QUARTER_US * len(buckets):
        return any(first <= bucket < span.end_us for bucket in buckets)
    return any(bucket in buckets for bucket in range(first, span.end_us, QUARTER_US))


def _set(newest: dict[int, int], bucket: int, value: int) -> None:
    if value:
        newest[bucket] = value
    else:
        newest.pop(bucket, None)


def _inside(newest: Mapping[int, int], finer: Level, start: int, end: int) -> list[int]:
    found = []
    while start < end:
        if start in newest:
            found.append(newest[start])
        start = finer.next(start)
    return found


def _day_of(bucket: int) -> str:
    """The partition of events that holds what began then."""
    return time.strftime("%Y%m%d", time.gmtime(bucket // 1_000_000))
