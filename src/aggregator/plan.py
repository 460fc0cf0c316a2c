"""Where the answer to a question lies: the segments of its cover, and where its concurrency is kept. Pure, no I/O.

A call counts where it started, so it lies in exactly one segment: whatever is computed meanwhile, no call can be
counted twice. Concurrency has segments of its own, since a call counts in every bucket that its interval touches.
statements.py asks the store.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from aggregator.buckets import DAY_US
from aggregator.cover import LEVELS, PEAKS, Level, Segment, Span, cover, joined
from aggregator.cubes import EVERYWHERE, FORMAT, PEAK_DIMENSIONS, WORKSPACE, Cube, cube_for
from aggregator.dimensions import Filter
from aggregator.measures import CONCURRENCY
from aggregator.query import UsageQuery

CALLS_DAYS = 7  # of concurrency that is read from the calls: a sweep over more of them takes seconds
BEGUN_DAYS = 1  # `last=7d` begins where a day does, so it is up to eight
MAX_SWEEPS = 16  # of calls for their concurrency: each is a SELECT of its own, and a statement has a greatest size
MAX_CALL_SPANS = 200  # of calls in one statement: each is a range that the store looks for in every part

Top = Sequence[Sequence[str]]
"""The keys that have a series of their own: what `top_statement` gave."""

Versions = Sequence[tuple[int, int]]
"""Buckets of a level, each with the version of it that counts."""


class Known(Protocol):
    """What is known of the rollups at one moment: `Freshness` is."""

    def dirty(self, level: Level) -> Sequence[Span]: ...

    def versions(self, level: Level, spans: Iterable[Span]) -> Versions: ...

    def format(self, level: Level, buckets: Iterable[int]) -> int: ...

    def has_calls(self, span: Span) -> bool: ...

    def has_flights(self, span: Span) -> bool: ...


@dataclass(frozen=True, slots=True)
class KeptPeak:
    """Where a question's concurrency is kept: which rows of the peaks, and the dimension that their value is of."""

    subject: str
    dimension: str | None


def kept_peak(query: UsageQuery) -> KeptPeak | None:
    """None: such peaks are not kept, since those of two values say nothing about both together."""
    values = _single_values(query)
    if values is None or ("kind" not in values and "kind" not in query.breakdown):
        return None
    named = set(values) | set(query.breakdown)
    subjects = named - {"kind", "workspace"}
    if not subjects <= set(PEAK_DIMENSIONS) or len(subjects) > 1:
        return None
    if subjects:
        return KeptPeak(*subjects, *subjects) if "workspace" in named else None
    return KeptPeak(WORKSPACE if "workspace" in named else EVERYWHERE, None)


def _single_values(query: UsageQuery) -> set[str] | None:
    """The dimensions that are held to one value; None where a filter does anything else."""
    found = set()
    if query.audience.workspace is not None:
        found.add("workspace")
    if query.audience.user is not None:
        found.add("user")
    for one in query.filters:
        if not isinstance(one, Filter) or (
            one.dimension not in query.breakdown and (one.negated or len(one.values) > 1)
        ):
            return None
        found.add(one.dimension)
    return found


def is_too_long(query: UsageQuery) -> bool:
    """Whether its concurrency is neither kept nor short enough to be read from the calls."""
    asked = any(name in CONCURRENCY for name in query.metrics)
    return asked and not is_swept(query) and kept_peak(query) is None


def is_swept(query: UsageQuery) -> bool:
    """Whether its range is short enough for its concurrency to be read from the calls."""
    return query.end_us - query.start_us <= (CALLS_DAYS + BEGUN_DAYS) * DAY_US


@dataclass(frozen=True, slots=True)
class Plan:
    """A question and the segments that answer it; `peaks` are those of its concurrency.

    Those `with_calls` and `with_flights` may hold anything: the newest minutes of somewhere quiet do not.
    """

    query: UsageQuery
    cube: Cube | None
    segments: tuple[Segment, ...]
    peaks: tuple[Segment, ...]
    kept: KeptPeak | None
    versions: Mapping[Level, Versions]
    with_calls: tuple[Segment, ...] = ()
    with_flights: tuple[Segment, ...] = ()

    def may_hold(self, segment: Segment, has_any: Callable[[Span], bool]) -> bool:
        """Of a clean bucket without a version there are no calls."""
        if segment.level:
            return bool(self.versions[segment.level])
        return has_any(Span(segment.start_us, segment.end_us))

    def read(self) -> Iterable[Segment]:
        """The segments that the answer is of, also those that hold nothing, or nothing any more."""
        if any(name not in CONCURRENCY for name in self.query.metrics):
            yield from self.segments
        if asks_concurrency(self.query):
            yield from self.peaks


def plan(query: UsageQuery, known: Known) -> Plan:
    bounds = query.bounds()
    dirty = {level: known.dirty(level) for level in LEVELS}
    asked = {*query.breakdown, *(one.dimension for one in query.filters)}
    asked |= set() if query.audience.user is None else {"user"}
    everything = (Segment(None, query.start_us, query.end_us),)
    segments = tuple(cover(query.start_us, query.end_us, bounds, dirty)) if cube_for(asked) else everything
    kept = kept_peak(query)
    peaks = tuple(cover(query.start_us, query.end_us, bounds, dirty, (PEAKS,))) if kept else everything
    segments, peaks = _few_calls(segments, MAX_CALL_SPANS), _few_calls(peaks, MAX_SWEEPS)
    versions = {level: known.versions(level, spans) for level, spans in by_level((*segments, *peaks)).items() if level}
    formats = [
        known.format(level, (bucket for bucket, _ in some)) for level, some in versions.items() if level is not PEAKS
    ]
    found = Plan(query, cube_for(asked, min(formats, default=FORMAT)), segments, peaks, kept, versions)
    return replace(
        found,
        with_calls=tuple(one for one in segments if found.may_hold(one, known.has_calls)),
        with_flights=tuple(one for one in peaks if found.may_hold(one, known.has_flights)),
    )


def by_level(segments: Iterable[Segment]) -> dict[Level | None, list[Span]]:
    found: dict[Level | None, list[Span]] = {}
    for one in segments:
        found.setdefault(one.level, []).append(Span(one.start_us, one.end_us))
    return found


def without_kept_peaks(plan: Plan) -> Plan:
    """The same, with all concurrency from the calls: that of OTHER is not kept."""
    swept = (Segment(None, plan.query.start_us, plan.query.end_us),)
    return replace(plan, peaks=swept, with_flights=swept, kept=None)


def _few_calls(segments: Sequence[Segment], most: int) -> tuple[Segment, ...]:
    """With at most so many stretches of calls: what lies between two of them is read from the calls too, the shortest
    first."""
    calls = [i for i, one in enumerate(segments) if one.level is None]
    gaps = sorted(pairwise(calls), key=lambda gap: segments[gap[1]].start_us - segments[gap[0]].end_us)
    read = {i for first, last in gaps[: max(0, len(calls) - most)] for i in range(first, last)}
    return tuple(joined(replace(one, level=None) if i in read else one for i, one in enumerate(segments)))


def asks_concurrency(query: UsageQuery) -> bool:
    return any(name in CONCURRENCY for name in query.metrics)
