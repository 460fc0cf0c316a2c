"""A question about usage and its answer. Pure, no I/O. plan.py and statements.py put it to the store, cells.py makes
the answer of what comes back.

The buckets are computed here from the zone's rules; the store only assigns calls to boundaries that it is given.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from aggregator.buckets import Interval, boundaries, from_us, stepped, to_us
from aggregator.dimensions import Binder, Condition, Parameters
from aggregator.measures import CONCURRENCY, Component, Metric, Number, metric

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
        return list(_bounds(self.start_us, self.end_us, self.interval, self.step_seconds, self.zone))


@lru_cache(maxsize=16)  # a question needs them several times, and so do a page's parts
def _bounds(start_us: int, end_us: int, interval: Interval, step_seconds: int | None, zone: tzinfo) -> tuple[int, ...]:
    if step_seconds is None:
        starts = boundaries(start_us, end_us, interval, zone)
    else:
        starts = stepped(start_us, end_us, step_seconds, zone)
    return tuple(islice(starts, MAX_BUCKETS + 1))


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


def ranked_by(query: UsageQuery, bind: Binder) -> Metric:
    """What decides which series a question's answer has: its first metric that adds up, or else the calls."""
    additive = (one for one in plain_metrics(query, bind) if one.additive)
    return next(additive, None) or metric("requests", bind)


def asked_components(query: UsageQuery, bind: Binder) -> list[Component]:
    """What makes up the plain metrics, each once: the columns of the statements."""
    return list({one.name: one for each in plain_metrics(query, bind) for one in each.components}.values())


def named(answer: UsageAnswer, names: Mapping[str, Mapping[str, str]]) -> UsageAnswer:
    """The answer with display names (dimension → value → label) on its series."""
    if not any(names.values()):
        return answer
    series = [
        replace(one, names={d: names[d][v] for d, v in one.key.items() if v in names.get(d, {})})
        for one in answer.series
    ]
    return replace(answer, series=series)
