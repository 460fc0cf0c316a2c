"""A question about usage: validated parameters in, statements out, rows in, the answer out. Pure, no I/O.

The buckets are computed here from the zone's rules; the store only assigns calls to boundaries that it is given.
One statement gives every bucket and, by a second grouping set, each series' total: an average or a quantile of the
whole range is not made from those of its buckets. Concurrency needs a statement of its own, since a call counts in
every bucket that its interval touches, not only in the one in which it started.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import NamedTuple

from aggregator.buckets import Interval, boundaries, runs, stepped
from aggregator.dimensions import Binder, Condition, Parameters, expression
from aggregator.measures import CONCURRENCY, Metric, Number, is_additive, metric

OTHER = "__other__"
"""The key of the series that holds all that is beyond `top`."""

ONE_GROUP = "one_group"
"""The name under which a statement knows one of a call's groups."""

Top = Sequence[Sequence[str]]
"""The keys that have a series of their own: what `top_statement` gave."""

MAX_BUCKETS = 50_000  # a month of minutes; a chart shows a thousand, and an answer must fit into memory


class Statement(NamedTuple):
    """SQL text with `{name:Type}` placeholders, and the values that belong there."""

    sql: str
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class Audience:
    """Whose calls a question may see: made from the token, never from a parameter. None is no limit (an operator's)."""

    workspace: str | None = None
    user: str | None = None


EVERYBODY = Audience()


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """`[start_us, end_us)` in UTC microseconds; everything validated (see parameters.py)."""

    start_us: int
    end_us: int
    zone: tzinfo
    zone_name: str = "UTC"
    interval: Interval = "day"
    cumulative: bool = False
    metrics: tuple[str, ...] = ("credits",)
    breakdown: tuple[str, ...] = ()
    filters: tuple[Condition, ...] = ()
    audience: Audience = EVERYBODY
    top: int = 20
    step_seconds: int | None = None
    """Buckets of another size than `interval`, which is then a finer one: see `buckets.stepped`."""

    def bounds(self) -> list[int]:
        """The starts of the buckets: never more than MAX_BUCKETS + 1 of them, so that a check is cheap."""
        found: list[int] = []
        for bound in self._starts():
            found.append(bound)
            if len(found) > MAX_BUCKETS:
                break
        return found

    def _starts(self) -> Iterator[int]:
        if self.step_seconds is None:
            return boundaries(self.start_us, self.end_us, self.interval, self.zone)
        return stepped(self.start_us, self.end_us, self.step_seconds, self.zone)


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: a metric of one combination of breakdown values; `values` one per bucket."""

    metric: str
    key: dict[str, str]
    values: list[Number | None]
    total: Number | None
    names: dict[str, str] = field(default_factory=dict)
    """The display names of the key's dimensions, where there are any."""

    @property
    def label(self) -> str:
        shown = [self.names.get(dimension) or value or "(none)" for dimension, value in self.key.items()]
        return " · ".join(shown) if shown else "All"


@dataclass(frozen=True, slots=True)
class UsageAnswer:
    """`bounds` are the buckets' starts in UTC microseconds; up to `complete_until_us` nothing is missing any more."""

    query: UsageQuery
    bounds: list[int]
    series: list[Series]
    complete_until_us: int


def conditions(audience: Audience, filters: Iterable[Condition], bind: Binder) -> list[str]:
    """What a call must fulfil, without the time. `kind` is `request` unless a filter asks otherwise."""
    found = []
    if audience.workspace is not None:
        found.append(f"workspace = {bind(audience.workspace, 'String')}")
    if audience.user is not None:
        found.append(f"user = {bind(audience.user, 'String')}")
    return found + [f.sql(bind) for f in filters]


def in_range(start_us: int, end_us: int, bind: Binder) -> list[str]:
    return [f"started >= {moment(start_us, bind)}", f"started < {moment(end_us, bind)}"]


def moment(micros: int, bind: Binder) -> str:
    return f"fromUnixTimestamp64Micro({bind(micros, 'Int64')}, 'UTC')"


def top_statement(query: UsageQuery) -> Statement | None:
    """Rows of breakdown values, the first `top` of them; None without a breakdown.

    The list is by the first metric that adds up, over the whole range; a tie goes to the lesser value, so that the
    same question has the same answer. Calls that only reach into the range have a share in its concurrency alone:
    they rank as nothing. Both of the statements below take the same list, or their series would not fit together.
    """
    if not query.breakdown:
        return None
    bind = Binder()
    names = ", ".join(f"k{i}" for i in range(len(query.breakdown)))
    keys, join = _plain_keys(query, bind)
    selected = ", ".join(f"{key} AS k{i}" for i, key in enumerate(keys))
    ranked = next((name for name in query.metrics if is_additive(name)), "requests")
    rank = metric(ranked, bind).sql[0]
    shared = conditions(query.audience, query.filters, bind)
    where = " AND ".join(shared + in_range(query.start_us, query.end_us, bind))
    parts = [f"SELECT {selected}, {rank} AS rank FROM events FINAL {join}WHERE {where} GROUP BY {names}"]
    if _asks_concurrency(query):
        where = " AND ".join(shared + _overlaps(query, bind))
        parts.append(f"SELECT DISTINCT {selected}, 0 AS rank FROM events FINAL {join}WHERE {where}")
    return Statement(
        f"SELECT {names} FROM ({' UNION ALL '.join(parts)}) "
        f"GROUP BY {names} ORDER BY sum(rank) DESC, {names} LIMIT {bind(query.top, 'UInt32')}",
        bind.parameters,
    )


def usage_statement(query: UsageQuery, top: Top = ()) -> Statement | None:
    """Rows `(is_total, bucket start, breakdown…, aggregate…)`; None when only concurrency is asked for.

    The aggregates stand in the order of `_plain`, each metric's own behind one another.
    """
    bind = Binder()
    metrics = _plain(query, bind)
    if not metrics:
        return None
    where = " AND ".join(conditions(query.audience, query.filters, bind) + in_range(query.start_us, query.end_us, bind))
    keys, join = _keys(query, top, bind)
    columns = [sql for one in metrics for sql in one.sql]
    bucket = _bucket_of("toUnixTimestamp64Micro(started)", query, bind)
    names = ", ".join(f"k{i}" for i in range(len(keys)))
    every = f"bucket, {names}" if names else "bucket"
    return Statement(
        f"SELECT grouping(bucket) AS is_total, {every}, {', '.join(columns)} "
        f"FROM (SELECT *, {bucket} AS bucket{''.join(f', {key} AS k{i}' for i, key in enumerate(keys))} "
        f"FROM events FINAL {join}WHERE {where}) "
        f"GROUP BY GROUPING SETS (({every}), ({names}))",
        bind.parameters,
    )


def concurrency_statement(query: UsageQuery, top: Top = ()) -> Statement | None:
    """Rows `(is_total, bucket start, breakdown…, peak, microseconds in flight)`; None when it is not asked for.

    A call's interval `[started, started + duration)` is cut at the boundaries. Where two grouping sets meet, the
    pieces of one call touch without overlapping, so the peak of the whole range is exact as well.
    """
    if not _asks_concurrency(query):
        return None
    bind = Binder()
    start, end = bind(query.start_us, "Int64"), bind(query.end_us, "Int64")
    where = " AND ".join(conditions(query.audience, query.filters, bind) + _overlaps(query, bind))
    keys, join = _keys(query, top, bind)
    names = ", ".join(f"k{i}" for i in range(len(keys)))
    every = f"bucket, {names}" if names else "bucket"
    bounds = _bounds(query, bind)
    first, last = f"roundDown(begins, {bounds})", f"roundDown(ends - 1, {bounds})"
    pieces = f"if({first} = {last}, [{first}], arrayFilter(b -> b >= {first} AND b <= {last}, {bounds}))"
    following = f"arrayPushBack(arrayPopFront({bounds}), {end})"
    return Statement(
        f"SELECT grouping(bucket) AS is_total, {every}, "
        "maxIntersections(greatest(begins, bucket), least(ends, until)), "
        "sum(least(ends, until) - greatest(begins, bucket)) "
        f"FROM (SELECT *, arrayJoin({pieces}) AS bucket, transform(bucket, {bounds}, {following}, {end}) AS until "
        f"FROM (SELECT greatest(toUnixTimestamp64Micro(started), {start}) AS begins, "
        f"least(toUnixTimestamp64Micro(started) + duration_us, {end}) AS ends"
        f"{''.join(f', {key} AS k{i}' for i, key in enumerate(keys))} "
        f"FROM events FINAL {join}WHERE {where}) WHERE ends > begins) "
        f"GROUP BY GROUPING SETS (({every}), ({names}))",
        bind.parameters,
    )


def _plain(query: UsageQuery, bind: Binder) -> list[Metric]:
    return [metric(name, bind) for name in query.metrics if name not in CONCURRENCY]


def _bounds(query: UsageQuery, bind: Binder) -> str:
    """The boundaries as an array that the store builds: a year of hours is three bound runs, not 8,760 numbers."""
    parts = []
    for run in runs(query.bounds()):
        first, step, count = bind(run.first, "Int64"), bind(run.step, "Int64"), bind(run.count, "UInt32")
        parts.append(f"arrayMap(i -> {first} + toInt64(i) * {step}, range({count}))")
    return f"arrayConcat({', '.join(parts)})" if len(parts) > 1 else parts[0]


def _bucket_of(micros: str, query: UsageQuery, bind: Binder) -> str:
    return f"roundDown({micros}, {_bounds(query, bind)})"


def _asks_concurrency(query: UsageQuery) -> bool:
    return any(name in CONCURRENCY for name in query.metrics)


def _overlaps(query: UsageQuery, bind: Binder) -> list[str]:
    """The calls whose interval `[started, started + duration)` has a part in the range: one without length has none."""
    ends = "toUnixTimestamp64Micro(started) + duration_us"
    begins_before = f"started < {moment(query.end_us, bind)}"
    return [begins_before, f"{ends} > {bind(query.start_us, 'Int64')}", "duration_us > 0"]


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


def usage_answer(
    query: UsageQuery, rows: Iterable[Sequence[Number]], concurrency: Iterable[Sequence[Number]], complete_until_us: int
) -> UsageAnswer:
    """The rows of the two statements as series: greatest first, OTHER last, every bucket filled."""
    bounds = query.bounds()
    table = _Table(query, bounds)
    bind = Binder()
    table.add(rows, _plain(query, bind))
    table.add(concurrency, _concurrency_metrics(query, bounds))
    return UsageAnswer(query, bounds, table.series(), complete_until_us)


def named(answer: UsageAnswer, names: Mapping[str, Mapping[str, str]]) -> UsageAnswer:
    """The answer with display names (dimension → value → label) on its series."""
    if not any(names.values()):
        return answer
    series = [
        replace(one, names={d: names[d][v] for d, v in one.key.items() if v in names.get(d, {})})
        for one in answer.series
    ]
    return replace(answer, series=series)


def _concurrency_metrics(query: UsageQuery, bounds: list[int]) -> list[Metric]:
    return [Metric("concurrency", "calls", ("",)), Metric("concurrency_average", "calls", ("",))]


class _Table:
    """Cells by metric and key; turns sparse rows into complete series."""

    def __init__(self, query: UsageQuery, bounds: list[int]) -> None:
        self._query = query
        self._index = {bound: i for i, bound in enumerate(bounds)}
        self._lengths = [b - a for a, b in zip(bounds, [*bounds[1:], query.end_us], strict=True)]
        self._keys: dict[tuple[str, ...], None] = {}
        self._values: dict[tuple[str, tuple[str, ...]], list[Number | None]] = {}
        self._totals: dict[tuple[str, tuple[str, ...]], Number | None] = {}

    def add(self, rows: Iterable[Sequence[Number]], metrics: Sequence[Metric]) -> None:
        width = len(self._query.breakdown)
        for row in rows:
            bucket = None if row[0] else self._index[int(row[1])]
            key = tuple(str(part) for part in row[2 : 2 + width])
            self._keys[key] = None
            position = 2 + width
            for one in metrics:
                results = row[position : position + len(one.sql)]
                position += len(one.sql)
                self._put(one, key, bucket, results)

    def _put(self, one: Metric, key: tuple[str, ...], bucket: int | None, results: Sequence[Number]) -> None:
        value = one.value(results)
        if one.name == "concurrency_average" and value is not None:
            length = sum(self._lengths) if bucket is None else self._lengths[bucket]
            value = float(value) / length if length else 0
        if bucket is None:
            self._totals[one.name, key] = value
        else:
            self._values.setdefault((one.name, key), self._empty(one.name))[bucket] = value

    def _empty(self, name: str) -> list[Number | None]:
        return [self._nothing(name)] * len(self._lengths)

    @staticmethod
    def _nothing(name: str) -> Number | None:
        return 0 if is_additive(name) or name in CONCURRENCY else None

    def series(self) -> list[Series]:
        keys = list(self._keys)
        if not keys and not self._query.breakdown:
            keys = [()]
        return [self._one(name, key) for name in self._query.metrics for key in sorted(keys, key=self._order)]

    def _order(self, key: tuple[str, ...]) -> tuple[bool, Number, tuple[str, ...]]:
        ranked = next((name for name in self._query.metrics if is_additive(name)), self._query.metrics[0])
        return OTHER in key, -(self._totals.get((ranked, key)) or 0), key

    def _one(self, name: str, key: tuple[str, ...]) -> Series:
        values = self._values.get((name, key)) or self._empty(name)
        total = self._totals.get((name, key), self._nothing(name))
        if self._query.cumulative:
            values = _running(values)
        return Series(name, dict(zip(self._query.breakdown, key, strict=True)), values, total)


def _running(values: Iterable[Number | None]) -> list[Number | None]:
    total: Number = 0
    sums: list[Number | None] = []
    for value in values:
        total = total + (value or 0)  # type: ignore[operator]  # one metric's values are all of one kind
        sums.append(total)
    return sums
