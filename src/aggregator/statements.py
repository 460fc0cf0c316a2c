"""How a question is put to the store: a statement for each table that its plan reads. Pure, no I/O.

Each gives components by asked bucket and breakdown, and where one is a sketch by a second grouping set each series'
total: a quantile of the whole range is not made from those of its buckets. What two statements say of the same bucket
is merged by the components' own rules (query.py). One statement over all tables would be one round trip, but the
engine takes longer to plan it than to run its parts one after the other; and what is asked of rollups can be kept
(answers.py).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from aggregator.buckets import Run, from_us, runs
from aggregator.cover import DAYS, PEAKS, Level, Segment, Span, cover
from aggregator.cubes import published
from aggregator.dimensions import Binder, expression
from aggregator.measures import Component
from aggregator.plan import Plan, Top, asks_concurrency, by_level
from aggregator.query import OTHER, Statement, UsageQuery, asked_components, conditions, in_range, ranked_by

ONE_GROUP = "one_group"
"""The name under which a statement knows one of a call's groups."""

MAX_STEPS = 8  # runs of boundaries that are told apart one by one


@dataclass(frozen=True, slots=True)
class Asked:
    """A statement, and whether its rows never change: what is asked of rollups names the versions that count."""

    statement: Statement
    is_kept: bool
    most: int | None = None
    """Rows: of a statement that gives more, all are to be left."""


def rank_statements(plan: Plan, most: int) -> list[Asked]:
    """Rows `(breakdown…, rank)`, at most so many of each statement; ranks of the same values add up.

    The series are ranked by the first metric that adds up, over the whole range. Calls that only reach into the range
    have a share in its concurrency alone: they rank as nothing.
    """
    found = []
    for ranking, is_kept in _rankings(plan):
        bind = Binder()
        sql = f"{ranking(bind)} LIMIT {bind(most, 'UInt32')}"
        found.append(Asked(Statement(sql, bind.parameters), is_kept))
    return found


def top_statement(plan: Plan) -> Statement | None:
    """Rows of breakdown values, the first `top` of them; a tie goes to the lesser value, so that the same question has
    the same answer. None where nothing is read."""
    query, bind = plan.query, Binder()
    parts = [ranking(bind) for ranking, _ in _rankings(plan)]
    if not parts:
        return None
    names = ", ".join(f"k{i}" for i in range(len(query.breakdown)))
    return Statement(
        f"SELECT {names} FROM ({' UNION ALL '.join(parts)}) GROUP BY {names} ORDER BY sum(rank) DESC, {names} "
        f"LIMIT {bind(query.top, 'UInt32')}",
        bind.parameters,
    )


Ranking = Callable[[Binder], str]


def _rankings(plan: Plan) -> Iterator[tuple[Ranking, bool]]:
    """A SELECT for each place to look at, and whether its rows never change."""
    for source in _sources(plan):
        yield partial(_ranking, plan, source), source.level is not None
    if asks_concurrency(plan.query):
        for one in plan.with_flights:
            if one.level is None:
                yield partial(_in_flight, plan, one), False
        if any(one.level for one in plan.with_flights):
            yield partial(_in_kept_flight, plan), True


def _ranking(plan: Plan, source: "_Source", bind: Binder) -> str:
    keys, join = _plain_keys(plan.query, bind)
    names = _names(keys).removeprefix(", ")
    rank = ranked_by(plan.query, bind).components
    value = " - ".join(source.component(one) for one in rank)
    rows = source.rows(plan, rank, _selected(keys).removeprefix(", "), join, bind)
    return f"SELECT {names}, {value} AS rank FROM {rows} GROUP BY {names}"


def _in_flight(plan: Plan, span: Segment, bind: Binder) -> str:
    """The keys of all calls with a part in the span, with nothing for their rank."""
    keys, join = _plain_keys(plan.query, bind)
    where = " AND ".join(conditions(plan.query.audience, plan.query.filters, bind) + _overlaps(span, bind))
    return f"SELECT DISTINCT {_selected(keys).removeprefix(', ')}, 0 AS rank FROM events FINAL {join}WHERE {where}"


def _in_kept_flight(plan: Plan, bind: Binder) -> str:
    keys, _ = _plain_keys(plan.query, bind)
    selected = f"{_selected(keys).removeprefix(', ')}, 0 AS rank"
    return f"SELECT DISTINCT * FROM {_peak_rows(plan, selected, bind)}"


def all_statements(plan: Plan, most: int) -> list[Asked]:
    """The same as `usage_statements`, of all keys, so that they need not be ranked first: one statement, not two.
    Where there are more than `most` rows the engine stops amid them."""
    return usage_statements(plan, None, most)


def usage_statements(plan: Plan, top: Top | None = (), most: int | None = None) -> list[Asked]:
    """Rows `(is_total, number of the bucket, breakdown…, component…)`; none when only concurrency is asked for.

    The components stand in the order of `query.asked_components`; a sketch is a pair, of its bins and of its state
    where there may be other rows to merge it with. Totals come only with a sketch: all else adds up. Without `top`
    every key is given by its own name.
    """
    query, sources = plan.query, _sources(plan)
    if not asked_components(query, Binder()):
        return []
    bounds = query.bounds()
    # A bucket that two tables answer has a segment that begins within it.
    shared = sorted({_within(bounds, Span(*span))[0] for one in sources for span in one.spans if span[0] not in bounds})
    found = []
    for source in sources:
        bind = Binder()
        asked = asked_components(query, bind)
        keys, join = _plain_keys(query, bind) if top is None else _keys(query, top, bind)
        names = _names(keys)
        merges = _merges(shared, bind) if len(sources) > 1 else None
        is_total, groups = "0", f"slot{names}"
        if any(one.is_sketch for one in asked):
            is_total, groups = "grouping(slot)", f"GROUPING SETS ((slot{names}), ({names.removeprefix(', ')}))"
        values = "".join(f", {_value(source.component(one), one, merges)}" for one in asked)
        selected = f"{_slot(source.micros, bounds, source.whole, bind)} AS slot{_selected(keys)}"
        sql = (
            f"SELECT {is_total} AS is_total, slot{names}{values} "
            f"FROM {source.rows(plan, asked, selected, join, bind)} GROUP BY {groups}{_stopping(most)}"
        )
        found.append(Asked(Statement(sql, bind.parameters), source.level is not None, most))
    return found


def _stopping(most: int | None) -> str:
    if most is None:
        return ""
    return f" LIMIT {most + 1} SETTINGS max_rows_to_group_by = {most}, group_by_overflow_mode = 'break'"


def _merges(shared: Sequence[int], bind: Binder) -> str:
    """Whether a row may have to be merged with another statement's: a total, and a bucket that two tables answer."""
    return f"(is_total = 1 OR has({bind(shared, 'Array(Int64)')}, slot))" if shared else "is_total = 1"


def _value(aggregate: str, component: Component, merges: str | None) -> str:
    """`merges` says which rows may have to be merged; None: none of them."""
    if not component.is_sketch:
        return aggregate
    if merges is None:  # its result alone: the engine takes a third longer by way of a state
        return f"tuple({aggregate.replace('State', '', 1)}, '')"
    return f"tuple(finalizeAggregation({aggregate} AS {component.alias}), if({merges}, hex({component.alias}), ''))"


def concurrency_statements(plan: Plan, top: Top = ()) -> list[Asked]:
    """Rows `(is_total, number of the bucket, breakdown…, peak, microseconds in flight)`; none when it is not asked for.

    A call's interval `[started, started + duration)` is cut at the boundaries. Where two pieces meet, those of one call
    touch without overlapping, so the greatest peak of the pieces is that of the whole.
    """
    query = plan.query
    if not asks_concurrency(query):
        return []
    bounds, found = query.bounds(), []
    kept = [Span(one.start_us, one.end_us) for one in plan.with_flights if one.level]
    if kept:
        bind = Binder()
        keys, _ = _keys(query, top, bind)
        whole = Span(kept[0].start_us, kept[-1].end_us)
        selected = f"peak AS highest, busy_us AS busy, {_slot(_MICROS_OF_BUCKET, bounds, whole, bind)} AS slot"
        rows = _peak_rows(plan, selected + _selected(keys), bind)
        found.append(Asked(_greatest(rows, keys, bind), is_kept=True))
    swept = [one for one in plan.with_flights if one.level is None]
    if swept:
        bind = Binder()
        keys, join = _keys(query, top, bind)
        parts = [_swept(plan, one, bounds, keys, join, bind) for one in swept]
        found.append(Asked(_greatest(f"({' UNION ALL '.join(parts)})", keys, bind), is_kept=False))
    return found


def _greatest(rows: str, keys: Sequence[str], bind: Binder) -> Statement:
    names = _names(keys)
    return Statement(
        f"SELECT grouping(slot) AS is_total, slot{names}, max(highest), sum(busy) FROM {rows} "
        f"GROUP BY GROUPING SETS ((slot{names}), ({names.removeprefix(', ')}))",
        bind.parameters,
    )


_MICROS_OF_BUCKET = "toInt64(toUnixTimestamp(bucket)) * 1000000"


_MICROS_OF_DAY = "toInt64(toUnixTimestamp(toDateTime(YYYYMMDDToDate(_partition_value.1), 'UTC'))) * 1000000"
_MICROS_OF_CALL = "toUnixTimestamp64Micro(started)"


@dataclass(frozen=True, slots=True)
class _Source:
    """One table, and where in it the answer lies. Of whole days of calls no call's start is read: a day is a partition,
    and where it lies in one part FINAL does not need it either. That saves a question by a user a third of its time."""

    level: Level | None
    spans: tuple[Span, ...]
    is_of_days: bool = False

    @property
    def whole(self) -> Span:
        return Span(self.spans[0].start_us, self.spans[-1].end_us)

    @property
    def micros(self) -> str:
        if self.level:
            return _MICROS_OF_BUCKET
        return _MICROS_OF_DAY if self.is_of_days else _MICROS_OF_CALL

    def component(self, one: Component) -> str:
        return one.merged if self.level else one.calls

    def rows(self, plan: Plan, asked: Iterable[Component], selected: str, join: str, bind: Binder) -> str:
        """Its rows with what they are grouped by: the engine cannot always group by an expression of its own."""
        columns = [name for one in asked for name in (one.kept if self.level else one.reads)]
        selected = ", ".join([*dict.fromkeys(columns), selected])
        where = conditions(plan.query.audience, plan.query.filters, bind)
        if self.level and plan.cube:
            where += [f"cube = '{plan.cube.name}'", published(plan.versions[self.level], bind)]
            return f"(SELECT {selected} FROM {self.level.table} {join}WHERE {' AND '.join(where)})"
        inside = _of_days if self.is_of_days else in_range
        where.append(f"({' OR '.join(' AND '.join(inside(*span, bind)) for span in self.spans)})")
        return f"(SELECT {selected} FROM events FINAL {join}WHERE {' AND '.join(where)})"


def _of_days(start_us: int, end_us: int, bind: Binder) -> list[str]:
    first, last = (int(f"{from_us(moment_us):%Y%m%d}") for moment_us in (start_us, end_us - 1))
    return [f"_partition_value.1 >= {bind(first, 'UInt32')}", f"_partition_value.1 <= {bind(last, 'UInt32')}"]


def _sources(plan: Plan) -> list[_Source]:
    found = []
    for level, spans in by_level(plan.with_calls).items():
        if level:
            found.append(_Source(level, tuple(spans)))
            continue
        parts = by_level(part for span in spans for part in _with_days(span, plan.query.bounds()))
        found += [_Source(None, tuple(some), is_of_days=days is not None) for days, some in parts.items()]
    return found


def _with_days(span: Span, bounds: Sequence[int]) -> list[Segment]:
    """A stretch of calls, with the whole days that lie in one asked bucket as segments of that level."""
    return cover(*span, [span.start_us, *_within(bounds, span)[1]], {}, (DAYS,))


def _selected(keys: Sequence[str]) -> str:
    return "".join(f", {key} AS k{i}" for i, key in enumerate(keys))


def _names(keys: Sequence[str]) -> str:
    return "".join(f", k{i}" for i in range(len(keys)))


def _bounds(bounds: Sequence[int], bind: Binder) -> str:
    """The boundaries as an array that the store builds: a year of hours is three bound runs, not 8,760 numbers."""
    parts = []
    for run in runs(bounds):
        first, step, count = bind(run.first, "Int64"), bind(run.step, "Int64"), bind(run.count, "UInt32")
        parts.append(f"arrayMap(i -> {first} + toInt64(i) * {step}, range({count}))")
    return f"arrayConcat({', '.join(parts)})" if len(parts) > 1 else parts[0]


def _slot(micros: str, bounds: Sequence[int], span: Span, bind: Binder) -> str:
    """The number of the asked bucket that a moment of the span lies in.

    Reckoned, since the engine plans long with long arrays; and from the span's own start, so that two questions that
    begin at different moments of one bucket of a rollup are put to it in the same words.
    """
    number, inside = _within(bounds, span)
    found = runs([span.start_us, *inside])
    if len(found) > MAX_STEPS:
        array = _bounds(inside, bind)
        return f"toInt64({bind(number, 'Int64')} + arrayCount(bound -> bound <= {micros}, {array}))"
    choices: list[str] = []
    for run in found:
        choices[:0] = [f"{micros} >= {bind(run.first, 'Int64')}", _in_run(micros, run, number, bind)]
        number += run.count
    return f"multiIf({', '.join(choices[:-2])}, {choices[-1]})" if len(choices) > 2 else choices[-1]


def _in_run(micros: str, run: Run, number: int, bind: Binder) -> str:
    first = bind(number, "Int64")
    if run.count == 1:
        return first
    begins, step, last = bind(run.first, "Int64"), bind(run.step, "Int64"), bind(run.count - 1, "Int64")
    return f"{first} + least(intDiv({micros} - {begins}, {step}), {last})"


def _within(bounds: Sequence[int], span: Span) -> tuple[int, Sequence[int]]:
    """The number of the bucket in which the span begins, and the boundaries inside it."""
    first = bisect_right(bounds, span.start_us)
    return first - 1, bounds[first : bisect_left(bounds, span.end_us)]


def _overlaps(span: Segment, bind: Binder) -> list[str]:
    """The calls whose interval `[started, started + duration)` has a part in it: one without length has none."""
    ends = "toUnixTimestamp64Micro(started) + duration_us"
    begins_before = in_range(0, span.end_us, bind)[1]
    return [begins_before, f"{ends} > {bind(span.start_us, 'Int64')}", "duration_us > 0"]


def _swept(plan: Plan, span: Segment, bounds: Sequence[int], keys: list[str], join: str, bind: Binder) -> str:
    """The peak and the time in flight of each asked bucket's part in a stretch of calls."""
    number, inside = _within(bounds, Span(span.start_us, span.end_us))
    start, end, names = bind(span.start_us, "Int64"), bind(span.end_us, "Int64"), _names(keys)
    where = " AND ".join(conditions(plan.query.audience, plan.query.filters, bind) + _overlaps(span, bind))
    flights = (
        f"(SELECT greatest(toUnixTimestamp64Micro(started), {start}) AS begins, "
        f"least(toUnixTimestamp64Micro(started) + duration_us, {end}) AS ends{_selected(keys)} "
        f"FROM events FINAL {join}WHERE {where})"
    )
    first = bind(number, "Int64")
    if not inside:
        return (
            f"SELECT {first} AS slot{names}, maxIntersections(begins, ends) AS highest, sum(ends - begins) AS busy "
            f"FROM {flights} WHERE ends > begins GROUP BY slot{names}"
        )
    edges = _bounds([span.start_us, *inside], bind)
    # Numbered from 1 on, as arrays are.
    touched = [f"toUInt64(indexOf({edges}, roundDown({moment}, {edges})))" for moment in ("begins", "ends - 1")]
    pieces = f"range({touched[0]}, {touched[1]} + 1)"
    following = f"arrayPushBack(arrayPopFront({edges}), {end})"
    return (
        f"SELECT toInt64(piece) - 1 + {first} AS slot{names}, "
        f"maxIntersections(greatest(begins, {edges}[piece]), least(ends, {following}[piece])) AS highest, "
        f"sum(least(ends, {following}[piece]) - greatest(begins, {edges}[piece])) AS busy "
        f"FROM (SELECT *, arrayJoin({pieces}) AS piece FROM {flights} WHERE ends > begins) GROUP BY slot{names}"
    )


def _peak_rows(plan: Plan, selected: str, bind: Binder) -> str:
    kept = plan.kept
    if kept is None:
        raise ValueError("these peaks are not kept")
    named = f", value AS {kept.dimension}" if kept.dimension else ""
    where = [f"dimension = '{kept.subject}'", published(plan.versions[PEAKS], bind)]
    asked = conditions(plan.query.audience, plan.query.filters, bind) or ["1"]
    rows = f"SELECT *{named} FROM {PEAKS.table} WHERE {' AND '.join(where)}"
    return f"(SELECT {selected} FROM ({rows}) WHERE {' AND '.join(asked)})"


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
    columns = [bind([row[i] for row in sorted(map(tuple, top))], "Array(String)") for i in range(len(plain))]
    names = [f"t{i}" for i in range(len(plain))]
    listed = ", ".join(f"{values} AS {name}" for values, name in zip(columns, names, strict=True))
    in_top = f"{key} IN (SELECT {', '.join(names)} FROM system.one ARRAY JOIN {listed})"
    if not join:
        return [f"if({in_top}, {value}, '{OTHER}')" for value in plain], ""
    texts, other = ", ".join(f"toString({value})" for value in plain), ", ".join(f"'{OTHER}'" for _ in plain)
    capped = f"arrayMap({ONE_GROUP} -> if({in_top}, tuple({texts}), tuple({other})), {expression('group', bind)})"
    return [f"one_key.{i + 1}" for i in range(len(plain))], f"ARRAY JOIN arrayDistinct({capped}) AS one_key "
