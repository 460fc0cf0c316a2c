"""The Usage page as data: what its template shows of a view and its answer. Pure.

The two tables hold the chart's own numbers: the first a row per series, the second a row per bucket. The script of
the page takes names, numbers and links from them, so nothing is said twice and nothing can differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from aggregator import charts
from aggregator.buckets import from_us
from aggregator.colors import THEMES
from aggregator.measures import Number, is_additive, unit
from aggregator.query import OTHER, Series, UsageAnswer, UsageQuery
from aggregator.view import View
from aggregator.wording import (
    bucket_end_us,
    bucket_name,
    counted,
    dimension_name,
    is_counted,
    metric_name,
    percent,
    range_name,
    series_name,
    share,
    value_name,
    written,
)

_FINER = {"year": "month", "month": "day", "week": "day", "day": "hour", "hour": "minute"}
_SPARKS = 48  # points of a sparkline: what its width can show


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text; `exact` where the text is shorter than the number."""

    text: str
    exact: str = ""


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One series: its colour's slot, its names (one per breakdown), a link that narrows the view to it."""

    slot: int
    label: str
    names: list[str]
    href: str
    total: Cell
    share: float | None
    share_text: str
    spark: str


@dataclass(frozen=True, slots=True)
class BucketRow:
    """One bucket: its name, a link that looks closer, a number per series."""

    name: str
    href: str
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Panel:
    """A metric with its chart and its tables."""

    metric: str
    name: str
    title: str
    total: Cell
    caption: str
    chart: charts.Spec
    themes: dict[str, charts.Spec]
    description: str
    too_fine: str
    image: str
    series: list[SeriesRow]
    buckets: list[BucketRow]
    has_shares: bool


def panel(view: View, answer: UsageAnswer, totals: UsageAnswer, metric: str) -> Panel:
    """`totals` is the answer without a breakdown: a user in two groups counts in both series, and once in it."""
    query = answer.query
    series = [one for one in answer.series if one.metric == metric]
    slots = [slot for slot, one in zip(charts.series_slots(answer), answer.series, strict=True) if one.metric == metric]
    total = next((one.total for one in totals.series if one.metric == metric), None)
    shape = charts.shape_of(view.value("chart"), metric)
    drawable = charts.is_drawable(answer)
    return Panel(
        metric=metric,
        name=metric_name(metric),
        title=charts.title(answer, metric),
        total=cell(total, metric),
        caption=_caption(metric, query),
        chart=charts.usage_chart(answer, metric, shape, view.value("scale") == "log") if drawable else {},
        themes={name: charts.theme(name, slots) for name in THEMES},
        description=charts.description(answer, metric),
        too_fine="" if drawable else _too_fine(answer),
        image=view.href({"metric": metric}, path="/usage/chart.svg"),
        series=[_series_row(view, query, one, slot, total) for one, slot in zip(series, slots, strict=True)],
        buckets=_bucket_rows(view, answer, series) if drawable else [],
        has_shares=is_additive(metric) and bool(query.breakdown),
    )


def is_empty(answer: UsageAnswer) -> bool:
    """No series has anything: no call, or none that this metric says something about."""
    return not any(value for one in answer.series for value in one.values)


def _caption(metric: str, query: UsageQuery) -> str:
    """What the great number is of: its unit, where it has none behind it, and the range."""
    when = range_name(query.start_us, query.end_us, query.zone)
    return f"{unit(metric).replace('_', ' ')}, {when}" if is_counted(metric) else when


def _too_fine(answer: UsageAnswer) -> str:
    lines = f" of {counted(len(answer.series))} series" if len(answer.series) > 1 else ""
    return (
        f"{counted(len(answer.bounds))} buckets{lines} are too many to draw: choose a coarser interval or a shorter "
        "range. The CSV has them all."
    )


def _series_row(view: View, query: UsageQuery, one: Series, slot: int, whole: Number | None) -> SeriesRow:
    part = share(one.total, whole) if is_additive(one.metric) else None
    return SeriesRow(
        slot=slot,
        label=series_name(one),
        names=[value_name(value) for value in one.key.values()],
        href=_narrowed(view, one),
        total=cell(one.total, one.metric),
        share=part,
        share_text=percent(part),
        spark=charts.sparkline(one.values, _SPARKS),
    )


def _narrowed(view: View, one: Series) -> str:
    """To the calls of this series alone; what lies beyond the top list is no value that one could ask for."""
    if not one.key or OTHER in one.key.values():
        return ""
    changes: dict[str, str | Sequence[str] | None] = dict(one.key)
    changes["breakdown"] = [name for name in view.values("breakdown") if name not in one.key] or None
    return view.href(changes)


def _bucket_rows(view: View, answer: UsageAnswer, series: Sequence[Series]) -> list[BucketRow]:
    query = answer.query
    return [
        BucketRow(
            name=bucket_name(bound, query.interval, query.zone),
            href=_closer(view, query, bound),
            cells=[cell(one.values[index], one.metric) for one in series],
        )
        for index, bound in enumerate(answer.bounds)
    ]


def _closer(view: View, query: UsageQuery, bound: int) -> str:
    """The bucket by itself, in buckets one step finer."""
    finer = _FINER.get(query.interval)
    if not finer:
        return ""
    end_us = bucket_end_us(bound, query.interval, query.zone)
    start, end = from_us(bound, query.zone).isoformat(), from_us(end_us, query.zone).isoformat()
    return view.href({"start": start, "end": end, "last": None, "interval": finer})


def cell(value: Number | None, metric: str) -> Cell:
    text, exact = written(value, metric), exactly(value)
    return Cell(text, "" if text.replace(",", "") == exact else exact)


def exactly(value: Number | None) -> str:
    """As the API prints it."""
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else repr(value)


def breakdown_name(query: UsageQuery) -> str:
    return " and ".join(dimension_name(name) for name in query.breakdown)
