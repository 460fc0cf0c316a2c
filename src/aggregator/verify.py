"""Whether the rollups say what the calls say, bucket by bucket; and computing anew those that do not.

A bucket that is dirty or still open is left out: it is answered from the calls. So is one that is sealed, whose calls
may have been removed. What comes meanwhile makes its bucket dirty: that is asked before the calls are read and after.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from aggregator import cubes
from aggregator.buckets import DAY_US
from aggregator.cover import LEVELS, MONTHS, PEAKS, USAGE_LEVELS, Level, Span, spans_of
from aggregator.dimensions import Binder
from aggregator.freshness import Freshness
from aggregator.query import Statement, in_range
from aggregator.rollup import Rollup
from aggregator.store import Store

Amount = tuple[int, Decimal]
"""Calls and their credits; of concurrency, all peaks of the bucket together and the seconds in flight."""

LONGEST_US = DAY_US  # of a call: one that began on a sealed day may be gone, and is in the peaks of the day behind it

NOTHING: Amount = (0, Decimal(0))


@dataclass(frozen=True, slots=True)
class Difference:
    """A bucket (by its start, UTC microseconds) of which a rollup says something else than the calls."""

    level: Level
    cube: str
    bucket_us: int
    calls: Amount
    rollup: Amount


class Verification:
    """`sealed_us` is the moment before which calls may have been removed. Raises StoreError."""

    def __init__(self, store: Store, freshness: Freshness, sealed_us: int = 0) -> None:
        self._store = store
        self._freshness = freshness
        self._sealed_us = sealed_us
        self.compared = 0
        """Buckets so far, those of each level and cube for themselves."""

    def months(self) -> list[int]:
        """The starts of all months from that of the first call to that of the last."""
        bounds = Statement(
            "SELECT toUnixTimestamp(min(started)), toUnixTimestamp(max(started)), count() FROM events", {}
        )
        first, last, calls = self._store.select(bounds)[0]
        found = [MONTHS.floor(int(first) * 1_000_000)] if calls else []
        while found and MONTHS.next(found[-1]) <= int(last) * 1_000_000:
            found.append(MONTHS.next(found[-1]))
        return found

    def differences(self, month_us: int) -> Iterator[Difference]:
        """Level by level, those that are computed first first."""
        month = Span(month_us, MONTHS.next(month_us))
        before = {level: self._published(level, month) for level in USAGE_LEVELS}
        calls = self._calls(month)
        for level in USAGE_LEVELS:
            clean = before[level].items() & self._published(level, month).items()
            buckets = sorted(one for one in clean if one[0] >= self._sealed_us)
            yield from self._compared(level, month, buckets, _folded(level, calls))
        for day_us in range(*month, DAY_US):
            yield from self._peaks(Span(day_us, day_us + DAY_US))

    def _peaks(self, day: Span) -> Iterator[Difference]:
        before = self._published(PEAKS, day)
        buckets = sorted(one for one in before if one >= self._sealed_us + LONGEST_US)
        if not buckets:
            return
        spans = spans_of(PEAKS, buckets)
        reaches = self._freshness.ask(lambda known: [cubes.Reach(span, known.earliest_us(span)) for span in spans])
        calls = self._amounts(cubes.peaks_of_calls(reaches))
        clean = sorted(one for one in before.items() & self._published(PEAKS, day).items() if one[0] >= buckets[0])
        kept = self._amounts(cubes.peaks_kept(clean))
        for bucket, _ in clean:
            self.compared += 1
            expected, found = calls.get(bucket, NOTHING), kept.get(bucket, NOTHING)
            if expected != found:
                yield Difference(PEAKS, "peaks", bucket, expected, found)

    def _amounts(self, statement: Statement) -> dict[int, Amount]:
        rows = self._store.select(statement)
        return {int(second) * 1_000_000: (int(peaks), Decimal(int(busy)) / 1_000_000) for second, peaks, busy in rows}

    def _compared(
        self, level: Level, month: Span, buckets: list[tuple[int, int]], calls: dict[int, Amount]
    ) -> Iterator[Difference]:
        rollup = self._rollup(level, month, buckets)
        formats = self._freshness.ask(lambda known: [known.format(level, [bucket]) for bucket, _ in buckets])
        for (bucket, _), format in zip(buckets, formats, strict=True):
            for cube in cubes.cubes_of(format):
                self.compared += 1
                expected, found = calls.get(bucket, NOTHING), rollup.get((bucket, cube.name), NOTHING)
                if expected != found:
                    yield Difference(level, cube.name, bucket, expected, found)

    def _published(self, level: Level, month: Span) -> dict[int, int]:
        """The clean buckets that begin in the month, each with the version of it that counts."""
        versions, dirty = self._freshness.ask(
            lambda known: (known.versions(level, [month]), set(known.dirty_buckets(level)))
        )
        return {bucket: version for bucket, version in versions if bucket not in dirty}

    def _calls(self, month: Span) -> dict[int, Amount]:
        bind = Binder()
        rows = self._store.select(
            Statement(
                "SELECT toUnixTimestamp(toStartOfFifteenMinutes(started)) AS bucket, count(), sum(credits) "
                f"FROM events FINAL WHERE {' AND '.join(in_range(*month, bind))} GROUP BY bucket",
                bind.parameters,
            )
        )
        return {int(second) * 1_000_000: (int(calls), Decimal(credits)) for second, calls, credits in rows}

    def _rollup(self, level: Level, month: Span, buckets: list[tuple[int, int]]) -> dict[tuple[int, str], Amount]:
        bind = Binder()
        inside = cubes.published(buckets, bind)
        rows = self._store.select(
            Statement(
                f"SELECT toUnixTimestamp(bucket) AS second, cube, sum(calls), sum(credits) FROM {level.table} "
                f"WHERE {inside} GROUP BY second, cube",
                bind.parameters,
            )
        )
        return {(int(second) * 1_000_000, cube): (int(calls), Decimal(sum)) for second, cube, calls, sum in rows}


def repair(rollup: Rollup, differences: Iterable[Difference]) -> None:
    """Compute these buckets anew, and then what is computed from them."""
    wrong: dict[Level, set[int]] = {}
    for one in differences:
        wrong.setdefault(one.level, set()).add(one.bucket_us)
    for level in LEVELS:
        if level in wrong:
            rollup.compute(level, sorted(wrong[level]))
    while rollup.step():
        pass


def _folded(level: Level, calls: dict[int, Amount]) -> dict[int, Amount]:
    found: dict[int, Amount] = {}
    for bucket, (number, credits) in calls.items():
        before = found.get(level.floor(bucket), NOTHING)
        found[level.floor(bucket)] = before[0] + number, before[1] + credits
    return found
