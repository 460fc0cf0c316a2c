"""The rollups' worker: computes what is dirty, level by level, and publishes it.

A run takes the store's clock, then looks at what has come; it writes rows under a version of its own, and only then
publishes it. Dying at any moment leaves the published version in force and the bucket dirty; two workers at the same
bucket compute the same thing twice, and the one that began later counts. A bucket is computed when it has been quiet
for longer than any insert takes: before that it would be dirty again at once, and questions read its calls instead.
"""

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, starmap
from typing import Any, Protocol

from aggregator import cubes
from aggregator.buckets import SECOND_US
from aggregator.cover import LEVELS, PEAKS, QUARTERS, USAGE_LEVELS, Level, Span, spans_of
from aggregator.errors import StoreError
from aggregator.freshness import PUBLISHED, VERSION_BITS, Freshness
from aggregator.query import Statement
from aggregator.store import INSERT_SECONDS
from aggregator.unsealing import Unsealing

logger = logging.getLogger(__name__)

MARGIN_SECONDS = 2.0 * INSERT_SECONDS
"""A row's insert time is taken before others can see it. An insert is cut off sooner; clocks may differ a little."""

BATCH_ROWS = 300_000  # computed at once: some seconds, after which a stop is noticed, and few enough for the memory
PIECE = 4  # batches: of one bucket so much goes at once, since more of its calls share a row of the rollup
BATCH_BUCKETS = 672  # a week of quarters of an hour, where little happens in each
BATCH_SPANS = 64
GRACE_SECONDS = 900.0  # a superseded version stays for questions that began before: none takes as long
SWEEP_SECONDS = 600.0  # between looks for superseded versions: they only cost space
PAUSE_SECONDS = 2.0  # when nothing is due
RETRY_SECONDS = 5.0  # after a failure

_SETTINGS = {
    "max_threads": 2,  # questions run beside it
    # What is more goes to the disk, so memory is bounded. That takes twice the time: BATCH_ROWS stay below it.
    "max_bytes_before_external_group_by": 512 * 1024 * 1024,
    "group_by_two_level_threshold": 0,  # to merge two threads' groups in parallel costs more than it saves here
    "group_by_two_level_threshold_bytes": 0,
    "optimize_on_insert": 0,
}


class RollupStore(Protocol):
    def select(self, statement: Statement) -> Sequence[Sequence[Any]]: ...

    def execute(self, statement: Statement, settings: dict[str, int]) -> None: ...

    def write(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None: ...


@dataclass
class RollupStatistics:
    """Since the start of this process."""

    buckets: dict[str, int] = field(default_factory=dict)
    """Published, by level."""
    seconds: float = 0.0
    """Spent on computing."""
    errors: int = 0
    added: int = 0
    """Calls that were let in for sealed days."""
    waiting: int = 0
    """Closed buckets of all levels that wait to be computed, as of the last look."""


@dataclass(frozen=True, slots=True)
class _Run:
    """What one step knows: the store's clock from before it looked, and the version that it writes."""

    now_us: int
    computed_us: int
    newest_version: int

    @property
    def version(self) -> int:
        """Above all others: if the store's clock has been set back by some of a second that nobody else takes."""
        now_us, newest_us = self.now_us, self.newest_version >> VERSION_BITS
        if now_us <= newest_us:
            now_us = newest_us + 1 + secrets.randbelow(SECOND_US)
        return now_us << VERSION_BITS | secrets.randbits(VERSION_BITS)


class Rollup:
    """`removed_us` gives for a table the moment before which its rows may have been removed: what began earlier is
    never computed from them again. About `batch_rows` calls are computed at once. `may_run` tells whether this one of
    several aggregators is to do the work, and `may_add` the same of what two at once would do wrong: it must be
    certain."""

    def __init__(
        self,
        store: RollupStore,
        freshness: Freshness,
        *,
        margin_seconds: float = MARGIN_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        batch_rows: int = BATCH_ROWS,
        removed_us: Callable[[str], int] = lambda table: 0,
        may_run: Callable[[], bool] = lambda: True,
        may_add: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._freshness = freshness
        self._margin_us = round(margin_seconds * SECOND_US)
        self._grace_us = round(grace_seconds * SECOND_US)
        self._batch_rows = batch_rows
        self._removed_us = removed_us
        self._unsealing = Unsealing(store, freshness, removed_us, may_add)
        self._may_run = may_run
        self._swept_at = float("-inf")
        self.statistics = RollupStatistics()

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; finishes the batch in hand. No error ends it."""
        while not stop.is_set():
            try:
                pause = 0.0 if self.turn() else PAUSE_SECONDS
            except Exception as error:  # the guarded step: what was computed is unpublished, and is computed again
                self.statistics.errors += 1
                logger.warning("the rollups wait: %s", error, exc_info=not isinstance(error, StoreError))
                pause = RETRY_SECONDS
            stop.wait(pause)

    def turn(self) -> bool:
        """Do something, if it is this worker's to do; whether there may be more. Raises on failure."""
        if not self._may_run():
            return False
        if time.monotonic() - self._swept_at >= SWEEP_SECONDS:
            self.sweep()
            self._swept_at = time.monotonic()
        return self.step() > 0

    def step(self) -> int:
        """Compute and publish some of what is due; returns how many buckets, 0 when nothing is. Raises on failure."""
        began = time.monotonic()
        if added := self._unsealing.step():
            self.statistics.added += added
            return added
        run = self._begin()
        level, buckets = self._freshness.ask(lambda known: self._due(known, run))
        if level is None:
            return 0
        self._compute(level, buckets, run)
        counts = self.statistics.buckets
        counts[level.name] = counts.get(level.name, 0) + len(buckets)
        self.statistics.seconds += time.monotonic() - began
        return len(buckets)

    def compute(self, level: Level, buckets: list[int]) -> None:
        """Compute these rising buckets anew, whether they are dirty or not, and publish them."""
        self._compute(level, buckets, self._begin())

    def _compute(self, level: Level, buckets: list[int], run: _Run) -> None:
        if level is QUARTERS:
            self._compute_quarters(buckets, run)
        elif level is PEAKS:
            self._compute_peaks(buckets, run)
        else:
            self._compute_from_finer(level, buckets, run)

    def sweep(self) -> None:
        """Remove the rows of superseded versions, also those that a crash left behind."""
        for level in LEVELS:
            self._sweep(level)

    def _sweep(self, level: Level) -> None:
        found = [(int(second) * SECOND_US, version) for second, version in self._rows_of_several(level)]
        now_us = self._now_us()
        removed = self._freshness.ask(lambda known: self._superseded(known, level, found, now_us))
        if removed:
            self._store.execute(cubes.removal(level, removed), {})

    def _rows_of_several(self, level: Level) -> Sequence[Sequence[int]]:
        return self._store.select(cubes.versions_statement(level))

    def _superseded(
        self, known: Freshness, level: Level, found: Iterable[tuple[int, int]], now_us: int
    ) -> list[tuple[int, int]]:
        """Older than a published version that has been there for long enough."""
        removed = []
        for bucket, version in found:
            pointer = known.pointer(level, bucket)
            if pointer and version < pointer.version and pointer.version >> VERSION_BITS <= now_us - self._grace_us:
                removed.append((bucket, version))
        return removed

    def _begin(self) -> _Run:
        now_us = self._now_us()
        return _Run(now_us, now_us - self._margin_us, self._freshness.ask(lambda known: known.newest_version))

    def _now_us(self) -> int:
        return int(self._store.select(Statement("SELECT toUnixTimestamp64Micro(now64(6))", {}))[0][0])

    def _due(self, known: Freshness, run: _Run) -> tuple[Level | None, list[int]]:
        """The finest level that has something to compute, and a batch of its buckets."""
        due = {level: self._closed(known, level, run) for level in (QUARTERS, PEAKS, *USAGE_LEVELS[1:])}
        self.statistics.waiting = sum(map(len, due.values()))
        for level, buckets in due.items():
            if level in (QUARTERS, PEAKS):
                if buckets:
                    return level, self._batch(known, level, buckets)
                continue
            ready = [bucket for bucket in buckets if not _overlaps(_finer(level), known, level, bucket)]
            if ready:
                return level, self._batch(known, level, ready)
        return None, []

    def _batch(self, known: Freshness, level: Level, buckets: Sequence[int]) -> list[int]:
        """The first of them, up to so many rows and so many stretches that the store has to look for."""
        found, rows, stretches = [buckets[0]], known.rows(level, buckets[0]), 1
        for bucket in buckets[1:BATCH_BUCKETS]:
            rows += known.rows(level, bucket)
            stretches += bucket != level.next(found[-1])
            if rows > self._batch_rows or stretches > BATCH_SPANS:
                break
            found.append(bucket)
        return found

    def _closed(self, known: Freshness, level: Level, run: _Run) -> list[int]:
        """Dirty, over, and quiet for long enough that computing it makes it clean."""
        sealed_us = self._removed_us("events" if level in (QUARTERS, PEAKS) else _finer(level).table)
        return [
            bucket
            for bucket in known.dirty_buckets(level)
            if bucket >= sealed_us
            and level.next(bucket) <= run.now_us
            and known.newest_us(level, bucket) <= run.computed_us
        ]

    def _compute_quarters(self, buckets: list[int], run: _Run) -> None:
        """Several rows of a version may have the same key: they add up."""
        version, spans = run.version, spans_of(QUARTERS, buckets)
        for piece in self._pieces(spans):
            names = self._names(cubes.names_of_calls(piece))
            self._store.execute(cubes.from_calls(piece, version, names), _SETTINGS)
        self._publish(QUARTERS, buckets, version, run)

    def _compute_peaks(self, buckets: list[int], run: _Run) -> None:
        """In the same way: of the peaks of one key the greatest counts."""
        version, spans = run.version, spans_of(PEAKS, buckets)
        for piece in self._pieces(spans):
            self._store.execute(cubes.peaks(self._reaches(piece), version), _SETTINGS)
        self._publish(PEAKS, buckets, version, run)

    def _pieces(self, spans: Sequence[Span]) -> list[Sequence[Span]]:
        return self._freshness.ask(lambda known: _pieces(known, spans, PIECE * self._batch_rows))

    def _reaches(self, piece: Sequence[Span]) -> list[cubes.Reach]:
        """A call with a part in a piece of a quarter has one in the quarter."""
        quarters = [Span(QUARTERS.floor(span.start_us), span.end_us) for span in piece]
        earliest = self._freshness.ask(lambda known: list(map(known.earliest_us, quarters)))
        return list(map(cubes.Reach, piece, earliest))

    def _names(self, statement: Statement) -> list[str]:
        return [str(name) for (name,) in self._store.select(statement)]

    def _compute_from_finer(self, level: Level, buckets: list[int], run: _Run) -> None:
        spans, version = spans_of(level, buckets), run.version
        finer = self._freshness.ask(lambda known: _computed_from(level, spans, known))
        names = self._names(cubes.names_of_finer(level, finer))
        for some in self._freshness.ask(lambda known: _cubes_at_once(known, spans, self._batch_rows)):
            self._store.execute(cubes.from_finer(level, version, finer, names, some), _SETTINGS)
        self._publish(level, buckets, version, run)

    def _publish(self, level: Level, buckets: list[int], version: int, run: _Run) -> None:
        """In one insert of one block, which is there as a whole or not at all."""
        rows = [(level.name, bucket // SECOND_US, version, run.computed_us, cubes.FORMAT) for bucket in buckets]
        self._store.write("published", PUBLISHED, rows)


def _finer(level: Level) -> Level:
    return USAGE_LEVELS[USAGE_LEVELS.index(level) - 1]


def _computed_from(level: Level, spans: Iterable[Span], known: Freshness) -> cubes.Finer:
    finer = _finer(level)
    versions = known.versions(finer, spans)
    return cubes.Finer(versions, known.format(finer, (bucket for bucket, _ in versions)))


def _overlaps(finer: Level, known: Freshness, level: Level, bucket: int) -> bool:
    """Whether something that the bucket is computed from is dirty itself."""
    return known.has_dirty(finer, Span(bucket, level.next(bucket)))


def _pieces(known: Freshness, spans: Sequence[Span], most_rows: int) -> list[Sequence[Span]]:
    """All at once, but for a single bucket that has very many rows: that is cut into equal times."""
    count = math.ceil(sum(map(known.rows_within, spans)) / most_rows)
    if count < 2:
        return [spans]
    return [[piece] for span in spans for piece in _cut(span, count)]


def _cut(span: Span, count: int) -> list[Span]:
    edges = [span.start_us + (span.end_us - span.start_us) * i // count for i in range(count + 1)]
    return list(starmap(Span, pairwise(edges)))


def _cubes_at_once(known: Freshness, spans: Iterable[Span], most_rows: int) -> list[Sequence[cubes.Cube]]:
    """All in one statement, or one after the other where a single bucket holds more than a batch."""
    rows = sum(map(known.rows_within, spans))
    return [cubes.CUBES] if rows <= most_rows else [(cube,) for cube in cubes.CUBES]
