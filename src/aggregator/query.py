"""A question about usage: validated parameters in, the answer out. Pure, no I/O. plan.py puts it to the store.

The buckets are computed here from the zone's rules; the store only assigns calls to boundaries that it is given.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from typing import Any, NamedTuple

from aggregator.buckets import Interval, boundaries, from_us, stepped, to_us
from aggregator.dimensions import Binder, Condition, Parameters
from aggregator.measures import CONCURRENCY, Component, Metric, Number, is_additive, metric

OTHER = "__other__"
"""The key of the series that holds all that is beyond `top`."""

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
    compare: bool = False
    """Answer the previous period beside it."""

    def previous(self) -> "UsageQuery | None":
        """The same question of the period before, as long by the zone's clock: the week before, or the day, also where
        the clocks change; before whole months as many months. None where that would begin before 1970.
        """
        start, end = (from_us(edge, self.zone).replace(tzinfo=None) for edge in (self.start_us, self.end_us))
        months = (end.year - start.year) * 12 + end.month - start.month
        if months and all(edge == datetime(edge.year, edge.month, 1) for edge in (start, end)):  # noqa: DTZ001  # local
            index = start.year * 12 + start.month - 1 - months
            before = datetime(index // 12, index % 12 + 1, 1)  # noqa: DTZ001  # local
        else:
            before = start - (end - start)
        start_us = min(to_us(before.replace(tzinfo=self.zone)), self.start_us - 1)
        return replace(self, start_us=start_us, end_us=self.start_us, compare=False) if start_us >= 0 else None

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
    previous: "UsageAnswer | None" = None
    """With `compare`: the period before (`UsageQuery.previous`), in buckets of its own, of which there may be another
    number (February before March). Its series have the keys of this answer's, and OTHER for all that is beyond them.
    """


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


def plain_metrics(query: UsageQuery, bind: Binder) -> list[Metric]:
    """All but concurrency, which is of the calls' intervals."""
    return [metric(name, bind, i) for i, name in enumerate(query.metrics) if name not in CONCURRENCY]


def components(query: UsageQuery) -> list[str]:
    """The names of what makes up the plain metrics, each once: the columns of their statement."""
    return list(dict.fromkeys(one.name for each in plain_metrics(query, Binder()) for one in each.components))


def usage_answer(
    query: UsageQuery,
    rows: Iterable[Sequence[Any]],
    concurrency: Iterable[Sequence[Any]],
    complete_until_us: int,
    *,
    peak_of_other: bool = True,
) -> UsageAnswer:
    """The rows of the two statements as series: greatest first, OTHER last, every bucket filled.

    Without `peak_of_other` that series' peaks are null: they were made of peaks, which say nothing about all together.
    """
    bounds = query.bounds()
    table = _Table(query, bounds, peak_of_other)
    table.add(rows, components(query), plain_metrics(query, Binder()))
    table.add(concurrency, ("highest", "busy"), _INTERVALS)
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


_INTERVALS = (
    Metric("concurrency", "calls", (Component("highest", "", "", ""),)),
    Metric("concurrency_average", "calls", (Component("busy", "", "", ""),)),
)


class _Table:
    """Cells by metric and key; turns sparse rows into complete series."""

    def __init__(self, query: UsageQuery, bounds: list[int], peak_of_other: bool) -> None:
        self._query = query
        self._peak_of_other = peak_of_other
        self._index = {bound: i for i, bound in enumerate(bounds)}
        self._lengths = [b - a for a, b in zip(bounds, [*bounds[1:], query.end_us], strict=True)]
        self._keys: dict[tuple[str, ...], None] = {}
        self._values: dict[tuple[str, tuple[str, ...]], list[Number | None]] = {}
        self._totals: dict[tuple[str, tuple[str, ...]], Number | None] = {}

    def add(self, rows: Iterable[Sequence[Any]], columns: Sequence[str], metrics: Sequence[Metric]) -> None:
        width = 2 + len(self._query.breakdown)
        places = [[width + columns.index(part.name) for part in one.components] for one in metrics]
        for row in rows:
            bucket = None if row[0] else self._index[int(row[1])]
            key = tuple(str(part) for part in row[2:width])
            self._keys[key] = None
            for one, positions in zip(metrics, places, strict=True):
                self._put(one, key, bucket, [row[position] for position in positions])

    def _put(self, one: Metric, key: tuple[str, ...], bucket: int | None, results: Sequence[Any]) -> None:
        value = one.value(results)
        if one.name == "concurrency" and OTHER in key and not self._peak_of_other:
            value = None
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
