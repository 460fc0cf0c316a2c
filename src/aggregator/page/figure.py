"""A figure of a page: a chart, its legend, and the table of the very numbers that are drawn. Pure.

The page's script takes names, numbers and links from the table, so nothing is said twice and nothing can differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from decimal import Decimal
from functools import lru_cache

from aggregator import charts
from aggregator.buckets import Interval, from_us
from aggregator.measures import Number
from aggregator.page.colors import THEMES
from aggregator.page.view import RANGE_ONLY, View
from aggregator.page.wording import (
    bucket_end_us,
    bucket_name,
    dimension_name,
    metric_name,
    range_name,
    series_name,
    written,
)
from aggregator.query import OTHER, Series, UsageAnswer, UsageQuery

_FINER = {"year": "month", "month": "day", "week": "day", "day": "hour", "hour": "minute"}

LIMIT_SLOT = 5  # red on both cards, as the dashed line is


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text; `exact` where the text is shorter than the number."""

    text: str
    exact: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """A series in the legend and at the head of its column: its colour's slot, its name, a link that narrows to it."""

    slot: int
    label: str
    href: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One bucket: its name, a link that looks closer, a number per series."""

    name: str
    href: str
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Figure:
    """`chart` is empty where there is too much to draw; `problem` then says so, and what to do."""

    id: str
    title: str
    subtitle: str
    by: str
    chart: charts.Spec
    themes: dict[str, charts.Spec]
    entries: list[Entry]
    rows: list[Row]
    problem: str = ""
    has_legend: bool = True
    """Whether the colours need names below the chart; a heat map and totals have them beside their rows."""

    @property
    def description(self) -> str:
        return str(self.chart.get("description", self.title))


Closer = Callable[[UsageQuery, int], str]
"""From a bucket's start to the address that shows it closer."""


def closer_in(view: View) -> Closer:
    """The bucket by itself in finer ones; a minute in the log, since nothing is finer than its calls."""

    return lambda query, bound: _closer_in(view, bound, query.interval, query.zone)


def closer_in_log(view: View) -> Closer:
    """The bucket's calls."""
    return lambda query, bound: _log(view, bound, query.interval, query.zone)


KEPT = 4096  # addresses and names of buckets, half a megabyte: every figure of a page shows the same ones


@lru_cache(KEPT)
def _closer_in(view: View, bound: int, interval: Interval, zone: tzinfo) -> str:
    finer = _FINER.get(interval)
    if not finer:
        return _log(view, bound, interval, zone)
    return view.href({**_moments(bound, interval, zone), "last": None, "interval": finer})


@lru_cache(KEPT)
def _log(view: View, bound: int, interval: Interval, zone: tzinfo) -> str:
    rest = tuple(item for item in view.items if item[0] not in RANGE_ONLY)
    return View("/requests", (*_moments(bound, interval, zone).items(), *rest)).elsewhere("/requests")


def _moments(bound: int, interval: Interval, zone: tzinfo) -> dict[str, str]:
    end_us = bucket_end_us(bound, interval, zone)
    return {"start": from_us(bound, zone).isoformat(), "end": from_us(end_us, zone).isoformat()}


_name = lru_cache(KEPT)(bucket_name)


def usage_figure(
    view: View,
    answer: UsageAnswer,
    metric: str,
    shape: charts.Shape | None = None,
    log: bool = False,
    id: str = "usage",
    title: str = "",
) -> Figure:
    """One metric by its breakdown."""
    series = [one for one in answer.series if one.metric == metric]
    slots = charts.series_slots(answer, metric)
    entries = [Entry(slot, series_name(one), narrowed(view, one)) for slot, one in zip(slots, series, strict=True)]
    if not answer.query.breakdown:
        entries = [Entry(slot, metric_name(metric)) for slot in slots]
    problem = too_much(answer)
    chart = {} if problem else charts.usage_chart(answer, metric, shape, log)
    title = title or charts.title(answer, metric)
    found = _figure(id, title, answer, series, entries, chart, closer_in(view), problem)
    return replace(found, has_legend=bool(answer.query.breakdown) and answer.query.interval != "total")


def lines_figure(
    id: str, title: str, answer: UsageAnswer, slots: Sequence[int], closer: Closer, limit: int | None = None
) -> Figure:
    """Several metrics of one unit as lines on one axis, each in the colour of its slot."""
    entries = [Entry(slot, metric_name(one.metric)) for slot, one in zip(slots, answer.series, strict=True)]
    chart = charts.lines_chart(answer, title, limit)
    return _figure(id, title, answer, answer.series, entries, chart, closer, too_much(answer))


def heat_figure(view: View, answer: UsageAnswer, metric: str, id: str = "heat") -> Figure:
    """A row per series, a column per bucket."""
    series = [one for one in answer.series if one.metric == metric]
    entries = [Entry(0, series_name(one), narrowed(view, one)) for one in series]
    chart = charts.heat_map(answer, metric)
    title = f"{charts.title(answer, metric)}, by {' and '.join(map(dimension_name, answer.query.breakdown)).lower()}"
    found = _figure(id, title, answer, series, entries, chart, closer_in(view), too_much(answer))
    return replace(found, has_legend=False)


def _figure(
    id: str,
    title: str,
    answer: UsageAnswer,
    series: Sequence[Series],
    entries: list[Entry],
    chart: charts.Spec,
    closer: Closer,
    problem: str,
) -> Figure:
    query = answer.query
    rows = [
        Row(
            _name(bound, query.interval, query.zone),
            closer(query, bound),
            [cell(one.values[index], one.metric) for one in series],
        )
        for index, bound in enumerate(answer.bounds if not problem else ())
    ]
    return Figure(
        id=id,
        title=title,
        subtitle=f"{range_name(query.start_us, query.end_us, query.zone)} ({query.zone_name})",
        by=query.interval,
        chart={} if problem else chart,
        themes={name: charts.theme(name, [entry.slot for entry in entries]) for name in THEMES},
        entries=entries,
        rows=rows,
        problem=problem,
    )


def linked(figure: Figure, answer: UsageAnswer, closer: Closer) -> Figure:
    """The figure with another link for each bucket."""
    pairs = zip(figure.rows, answer.bounds, strict=False)  # no rows where there is too much to draw
    return replace(figure, rows=[replace(row, href=closer(answer.query, bound)) for row, bound in pairs])


def too_much(answer: UsageAnswer) -> str:
    """Why this cannot be drawn, and what to do; empty where it can."""
    if charts.is_drawable(answer):
        return ""
    if len(answer.series) > charts.MAX_ROWS and len(answer.bounds) <= charts.MAX_DRAWN:
        return f"{len(answer.series):,} series are too many to draw: show fewer with top=20. The CSV has them all."
    lines = f" of {len(answer.series):,} series" if len(answer.series) > 1 else ""
    return (
        f"{len(answer.bounds):,} buckets{lines} are too many to draw: choose a coarser interval or a shorter range. "
        "The CSV has them all."
    )


def narrowed(view: View, one: Series) -> str:
    """To the calls of this series alone; what lies beyond the top list is no value that one could ask for."""
    if not one.key or OTHER in one.key.values():
        return ""
    changes: dict[str, str | Sequence[str] | None] = dict(one.key)
    changes["breakdown"] = [name for name in view.values("breakdown") if name not in one.key] or None
    return view.href(changes)


def cell(value: Number | None, metric: str) -> Cell:
    text, exact = written(value, metric), exactly(value)
    return Cell(text, "" if text.replace(",", "") == exact else exact)


def exactly(value: Number | None) -> str:
    """As the API prints it."""
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else repr(value)
