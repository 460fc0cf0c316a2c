"""How a question is put to the store: one statement over all segments of its cover. Pure, no I/O.

Each segment gives components by asked bucket and breakdown, from a rollup or from the calls; the statement around them
merges these, by a second grouping set for each series' total too: an average or a quantile of the whole range is not
made from those of its buckets. A call counts where it started, so it lies in exactly one segment: whatever is computed
meanwhile, no call can be counted twice. Concurrency needs a statement of its own, since a call counts in every bucket
that its interval touches.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from aggregator.buckets import DAY_US, runs
from aggregator.cover import LEVELS, PEAKS, Level, Segment, Span, cover, joined
from aggregator.cubes import EVERYWHERE, PEAK_DIMENSIONS, WORKSPACE, Cube, cube_for, published
from aggregator.dimensions import Binder, Filter, expression
from aggregator.measures import CONCURRENCY, Component
from aggregator.query import OTHER, Statement, UsageQuery, conditions, in_range, plain_metrics

ONE_GROUP = "one_group"
"""The name under which a statement knows one of a call's groups."""

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
    """A question and the segments that answer it; `peaks` are those of its concurrency."""

    query: UsageQuery
    cube: Cube | None
    segments: tuple[Segment, ...]
    peaks: tuple[Segment, ...]
    kept: KeptPeak | None
    versions: Mapping[Level, Versions]

    def read(self) -> Iterable[Segment]:
        """The segments that the statements read."""
        if any(name not in CONCURRENCY for name in self.query.metrics):
            yield from self.segments
        if _asks_concurrency(self.query):
            yield from self.peaks


def plan(query: UsageQuery, known: Known) -> Plan:
    bounds = query.bounds()
    dirty = {level: known.dirty(level) for level in LEVELS}
    asked = {*query.breakdown, *(one.dimension for one in query.filters)}
    cube = cube_for(asked if query.audience.user is None else {*asked, "user"})
    everything = (Segment(None, query.start_us, query.end_us),)
    segments = tuple(cover(query.start_us, query.end_us, bounds, dirty)) if cube else everything
    kept = kept_peak(query)
    peaks = tuple(cover(query.start_us, query.end_us, bounds, dirty, (PEAKS,))) if kept else everything
    segments, peaks = _few_calls(segments, MAX_CALL_SPANS), _few_calls(peaks, MAX_SWEEPS)
    versions = {level: known.versions(level, spans) for level, spans in _by_level((*segments, *peaks)).items() if level}
    return Plan(query, cube, segments, peaks, kept, versions)


def _by_level(segments: Iterable[Segment]) -> dict[Level | None, list[Span]]:
    found: dict[Level | None, list[Span]] = {}
    for one in segments:
        found.setdefault(one.level, []).append(Span(one.start_us, one.end_us))
    return found


def without_kept_peaks(plan: Plan) -> Plan:
    """The same, with all concurrency from the calls: that of OTHER is not kept."""
    return replace(plan, peaks=(Segment(None, plan.query.start_us, plan.query.end_us),), kept=None)


def _few_calls(segments: Sequence[Segment], most: int) -> tuple[Segment, ...]:
    """With at most so many stretches of calls: what lies between two of them is read from the calls too, the shortest
    first."""
    calls = [i for i, one in enumerate(segments) if one.level is None]
    gaps = sorted(pairwise(calls), key=lambda gap: segments[gap[1]].start_us - segments[gap[0]].end_us)
    read = {i for first, last in gaps[: max(0, len(calls) - most)] for i in range(first, last)}
    return tuple(joined(replace(one, level=None) if i in read else one for i, one in enumerate(segments)))


def top_statement(plan: Plan) -> Statement | None:
    """Rows of breakdown values, the first `top` of them; None without a breakdown.

    The list is by the first metric that adds up, over the whole range; a tie goes to the lesser value, so that the
    same question has the same answer. Calls that only reach into the range have a share in its concurrency alone:
    they rank as nothing. Both of the statements below take the same list, or their series would not fit together.
    """
    query = plan.query
    if not query.breakdown:
        return None
    bind = Binder()
    keys, join = _plain_keys(query, bind)
    names = ", ".join(f"k{i}" for i in range(len(keys)))
    selected = ", ".join(f"{key} AS k{i}" for i, key in enumerate(keys))
    # Alike to the metric's own result, so that both statements rank the same way.
    ranked = next((one for one in plain_metrics(query, bind) if one.additive), None)
    rank = ranked.components if ranked else plain_metrics(_asking(query, "requests"), bind)[0].components
    parts = []
    for source in _sources(plan):
        values = ", ".join(f"{source.component(one)} AS {one.alias}" for one in rank)
        parts.append(f"SELECT {names}, {values} FROM {source.rows(plan, selected, join, bind)} GROUP BY {names}")
    by = " - ".join(one.result for one in rank)
    ranking = f"SELECT {names}, {by} AS rank FROM ({' UNION ALL '.join(parts)}) GROUP BY {names}"
    if _asks_concurrency(query):
        ranking = " UNION ALL ".join([ranking, *_in_flight(plan, bind)])
    return Statement(
        f"SELECT {names} FROM ({ranking}) GROUP BY {names} ORDER BY sum(rank) DESC, {names} "
        f"LIMIT {bind(query.top, 'UInt32')}",
        bind.parameters,
    )


def usage_statement(plan: Plan, top: Top = ()) -> Statement | None:
    """Rows `(is_total, bucket start, breakdown…, component…)`; None when only concurrency is asked for.

    The components stand in the order of `query.components`.
    """
    query, bind = plan.query, Binder()
    metrics = plain_metrics(query, bind)
    if not metrics:
        return None
    asked = list({one.name: one for each in metrics for one in each.components}.values())
    keys, join = _keys(query, top, bind)
    names = _names(keys)
    bounds = _bounds(query.bounds(), bind)
    parts = []
    for source in _sources(plan):
        values = ", ".join(f"{source.component(one)} AS {one.alias}" for one in asked)
        selected = f"roundDown({source.micros}, {bounds}) AS slot{_selected(keys)}"
        rows = source.rows(plan, selected, join, bind)
        parts.append(f"SELECT slot{names}, {values} FROM {rows} GROUP BY slot{names}")
    results = ", ".join(one.result for one in asked)
    return Statement(
        f"SELECT grouping(slot) AS is_total, slot{names}, {results} FROM ({' UNION ALL '.join(parts)}) "
        f"GROUP BY GROUPING SETS ((slot{names}), ({names.removeprefix(', ')}))",
        bind.parameters,
    )


def concurrency_statement(plan: Plan, top: Top = ()) -> Statement | None:
    """Rows `(is_total, bucket start, breakdown…, peak, microseconds in flight)`; None when it is not asked for.

    A call's interval `[started, started + duration)` is cut at the boundaries. Where two pieces meet, those of one call
    touch without overlapping, so the greatest peak of the pieces is that of the whole.
    """
    query = plan.query
    if not _asks_concurrency(query):
        return None
    bind = Binder()
    bounds = query.bounds()
    every = _bounds(bounds, bind)
    calls_keys, join = _keys(query, top, bind)
    names = _names(calls_keys)
    parts = [_swept(plan, one, bounds, calls_keys, join, bind) for one in plan.peaks if one.level is None]
    kept = [Span(one.start_us, one.end_us) for one in plan.peaks if one.level]
    if kept and plan.kept:
        keys, _ = _keys(query, top, bind)
        selected = f"roundDown({_MICROS_OF_BUCKET}, {every}) AS slot{_selected(keys)}"
        rows = _peak_rows(plan, kept, f"*, {selected}", bind)
        parts.append(f"SELECT slot{names}, max(peak) AS highest, sum(busy_us) AS busy FROM {rows} GROUP BY slot{names}")
    return Statement(
        f"SELECT grouping(slot) AS is_total, slot{names}, max(highest), sum(busy) FROM ({' UNION ALL '.join(parts)}) "
        f"GROUP BY GROUPING SETS ((slot{names}), ({names.removeprefix(', ')}))",
        bind.parameters,
    )


_MICROS_OF_BUCKET = "toInt64(toUnixTimestamp(bucket)) * 1000000"


@dataclass(frozen=True, slots=True)
class _Source:
    """One table, and where in it the answer lies."""

    level: Level | None
    spans: tuple[Span, ...]

    @property
    def micros(self) -> str:
        return _MICROS_OF_BUCKET if self.level else "toUnixTimestamp64Micro(started)"

    def component(self, one: Component) -> str:
        return one.merged if self.level else one.calls

    def rows(self, plan: Plan, selected: str, join: str, bind: Binder) -> str:
        """Its rows with what they are grouped by: the engine cannot always group by an expression of its own."""
        where = conditions(plan.query.audience, plan.query.filters, bind)
        if self.level and plan.cube:
            where += [f"cube = '{plan.cube.name}'", published(self.spans, plan.versions[self.level], bind)]
            return f"(SELECT *, {selected} FROM {self.level.table} {join}WHERE {' AND '.join(where)})"
        where.append(f"({' OR '.join(' AND '.join(in_range(*span, bind)) for span in self.spans)})")
        return f"(SELECT *, {selected} FROM events FINAL {join}WHERE {' AND '.join(where)})"


def _sources(plan: Plan) -> list[_Source]:
    return [_Source(level, tuple(spans)) for level, spans in _by_level(plan.segments).items()]


def _asking(query: UsageQuery, metric: str) -> UsageQuery:
    return UsageQuery(query.start_us, query.end_us, query.zone, metrics=(metric,))


def _asks_concurrency(query: UsageQuery) -> bool:
    return any(name in CONCURRENCY for name in query.metrics)


def _selected(keys: Sequence[str]) -> str:
    return "".join(f", {key} AS k{i}" for i, key in enumerate(keys))


def _names(keys: Sequence[str]) -> str:
    return "".join(f", k{i}" for i in range(len(keys)))


def _bounds(bounds: list[int], bind: Binder) -> str:
    """The boundaries as an array that the store builds: a year of hours is three bound runs, not 8,760 numbers."""
    parts = []
    for run in runs(bounds):
        first, step, count = bind(run.first, "Int64"), bind(run.step, "Int64"), bind(run.count, "UInt32")
        parts.append(f"arrayMap(i -> {first} + toInt64(i) * {step}, range({count}))")
    return f"arrayConcat({', '.join(parts)})" if len(parts) > 1 else parts[0]


def _overlaps(span: Segment, bind: Binder) -> list[str]:
    """The calls whose interval `[started, started + duration)` has a part in it: one without length has none."""
    ends = "toUnixTimestamp64Micro(started) + duration_us"
    begins_before = in_range(0, span.end_us, bind)[1]
    return [begins_before, f"{ends} > {bind(span.start_us, 'Int64')}", "duration_us > 0"]


def _swept(plan: Plan, span: Segment, bounds: list[int], keys: list[str], join: str, bind: Binder) -> str:
    """The peak and the time in flight of each asked bucket's part in a stretch of calls."""
    inside = [bound for bound in bounds if span.start_us < bound < span.end_us]
    edges = _bounds([span.start_us, *inside], bind)
    slots = _bounds([max(bound for bound in bounds if bound <= span.start_us), *inside], bind)
    start, end = bind(span.start_us, "Int64"), bind(span.end_us, "Int64")
    first, last = f"roundDown(begins, {edges})", f"roundDown(ends - 1, {edges})"
    pieces = f"if({first} = {last}, [{first}], arrayFilter(b -> b >= {first} AND b <= {last}, {edges}))"
    following = f"arrayPushBack(arrayPopFront({edges}), {end})"
    where = " AND ".join(conditions(plan.query.audience, plan.query.filters, bind) + _overlaps(span, bind))
    names = _names(keys)
    return (
        f"SELECT transform(piece, {edges}, {slots}, piece) AS slot{names}, "
        "maxIntersections(greatest(begins, piece), least(ends, until)) AS highest, "
        "sum(least(ends, until) - greatest(begins, piece)) AS busy "
        f"FROM (SELECT *, arrayJoin({pieces}) AS piece, transform(piece, {edges}, {following}, {end}) AS until "
        f"FROM (SELECT greatest(toUnixTimestamp64Micro(started), {start}) AS begins, "
        f"least(toUnixTimestamp64Micro(started) + duration_us, {end}) AS ends"
        f"{_selected(keys)} "
        f"FROM events FINAL {join}WHERE {where}) WHERE ends > begins) GROUP BY slot{names}"
    )


def _peak_rows(plan: Plan, spans: Sequence[Span], selected: str, bind: Binder) -> str:
    kept = plan.kept
    if kept is None:
        raise ValueError("these peaks are not kept")
    named = f", value AS {kept.dimension}" if kept.dimension else ""
    where = [f"dimension = '{kept.subject}'", published(spans, plan.versions[PEAKS], bind)]
    asked = conditions(plan.query.audience, plan.query.filters, bind) or ["1"]
    rows = f"SELECT *{named} FROM {PEAKS.table} WHERE {' AND '.join(where)}"
    return f"(SELECT {selected} FROM ({rows}) WHERE {' AND '.join(asked)})"


def _in_flight(plan: Plan, bind: Binder) -> list[str]:
    """The keys of all calls that have a part in the question's concurrency, with nothing for their rank."""
    keys, join = _plain_keys(plan.query, bind)
    selected = ", ".join(f"{key} AS k{i}" for i, key in enumerate(keys))
    parts = []
    for one in plan.peaks:
        if one.level is None:
            where = conditions(plan.query.audience, plan.query.filters, bind) + _overlaps(one, bind)
            parts.append(f"SELECT DISTINCT {selected}, 0 AS rank FROM events FINAL {join}WHERE {' AND '.join(where)}")
    kept = [Span(one.start_us, one.end_us) for one in plan.peaks if one.level]
    if kept:
        parts.append(f"SELECT DISTINCT * FROM {_peak_rows(plan, kept, f'{selected}, 0 AS rank', bind)}")
    return parts


def _plain_keys(query: UsageQuery, bind: Binder) -> tuple[list[str], str]:
    """The breakdown's expressions, and the join by which a call counts in each of its groups."""
    keys = [ONE_GROUP if name == "group" else expression(name, bind) for name in query.breakdown]
    return keys, f"ARRAY JOIN {expression('group', bind)} AS {ONE_GROUP} " if ONE_GROUP in keys else ""


def _keys(query: UsageQuery, top: Top, bind: Binder) -> tuple[list[str], str]:
    """The breakdown's expressions with all beyond `top` as OTHER, and the join that a group breakdown needs.

    A call in several groups that are not in the list counts once in OTHER, so that nothing counts twice there.
    """
    if not query.breakdown:
        return [], ""
    plain, join = _plain_keys(query, bind)
    key = f"({', '.join(plain)})" if len(plain) > 1 else plain[0]
    columns = [bind([row[i] for row in top], "Array(String)") for i in range(len(plain))]
    names = [f"t{i}" for i in range(len(plain))]
    listed = ", ".join(f"{values} AS {name}" for values, name in zip(columns, names, strict=True))
    in_top = f"{key} IN (SELECT {', '.join(names)} FROM system.one ARRAY JOIN {listed})"
    if not join:
        return [f"if({in_top}, {value}, '{OTHER}')" for value in plain], ""
    texts, other = ", ".join(f"toString({value})" for value in plain), ", ".join(f"'{OTHER}'" for _ in plain)
    capped = f"arrayMap({ONE_GROUP} -> if({in_top}, tuple({texts}), tuple({other})), {expression('group', bind)})"
    return [f"one_key.{i + 1}" for i in range(len(plain))], f"ARRAY JOIN arrayDistinct({capped}) AS one_key "
