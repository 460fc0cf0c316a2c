"""The Usage page as data: what its template shows of a view and its answers. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from aggregator import charts
from aggregator.buckets import HOUR_US, Interval, floor_us
from aggregator.dimensions import QUANTITY
from aggregator.measures import Number, exact, is_additive
from aggregator.page.figure import Cell, Entry, cell, narrowed
from aggregator.page.sparkline import sparkline
from aggregator.page.view import View
from aggregator.page.wording import change, dimension_name, metric_name, percent, series_name, share
from aggregator.query import Series, UsageAnswer, UsageQuery

_SPARKS = 48  # points of a sparkline: what its width can show
PASTS: dict[str, tuple[str, int, Interval]] = {
    "hour": ("Past hour", HOUR_US, "minute"),
    "day": ("Past day", 24 * HOUR_US, "hour"),
    "month": ("Past month", 30 * 24 * HOUR_US, "day"),
    "year": ("Past year", 365 * 24 * HOUR_US, "month"),
}
"""Of the API requests' own panel: what it reaches back, and the granularity that fits."""
CONCURRENCY_SLOTS = (4, 0)
"""Peak and average."""


@dataclass(frozen=True, slots=True)
class SeriesRow:
    """One series in the table of all: its share of the whole, its course, and how it changed."""

    entry: Entry
    total: Cell
    share: float | None
    share_text: str
    spark: str
    change: str


@dataclass(frozen=True, slots=True)
class Heading:
    """A column that sorts: `order` is `ascending`, `descending` or empty."""

    label: str
    href: str
    order: str
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class SeriesTable:
    title: str
    headings: list[Heading]
    rows: list[SeriesRow]
    has_shares: bool
    has_course: bool


def series_table(
    view: View, answer: UsageAnswer, metric: str, whole: Number | None, before: UsageAnswer | None
) -> SeriesTable:
    """A row per series, sorted as the address says, else the greatest first. `whole` counts nothing twice."""
    query = answer.query
    series = [one for one in answer.series if one.metric == metric]
    old = {tuple(one.key.values()): one.total for one in before.series if one.metric == metric} if before else {}
    pairs = list(zip(series, charts.series_slots(answer, metric), strict=True))
    name, descending = sorting(view, "total")
    keys: dict[str, Callable[[Series], Any]] = {
        "name": lambda one: series_name(one).casefold(),
        "total": lambda one: float(one.total or 0),
        "change": lambda one: _growth(one.total, old.get(tuple(one.key.values()))),
    }
    if view.value("sort") and name in keys:
        pairs.sort(key=lambda pair: keys[name](pair[0]), reverse=descending)
    title = " and ".join(map(dimension_name, query.breakdown))
    return SeriesTable(
        title=title,
        headings=[
            heading(view, "name", title or "Series", "total", numeric=False),
            heading(view, "total", metric_name(metric), "total"),
            heading(view, "change", "Change", "total"),
        ],
        rows=[_series_row(view, one, slot, whole, old.get(tuple(one.key.values()))) for one, slot in pairs],
        has_shares=is_additive(metric),
        has_course=query.interval != "total",
    )


def _growth(now: Number | None, before: Number | None) -> float:
    return float(now or 0) / float(before) if before else -1.0


def _series_row(view: View, one: Series, slot: int, whole: Number | None, before: Number | None) -> SeriesRow:
    part = share(one.total, whole) if is_additive(one.metric) else None
    return SeriesRow(
        entry=Entry(slot, series_name(one), narrowed(view, one)),
        total=cell(one.total, one.metric),
        share=part,
        share_text=percent(part),
        spark=sparkline(one.values, _SPARKS),
        change=change(one.total, before),
    )


def sorting(view: View, default: str) -> tuple[str, bool]:
    """By which column, and whether from the greatest down: `sort=total` rises, `sort=-total` falls."""
    text = view.value("sort", f"-{default}")
    return text.removeprefix("-"), text.startswith("-")


def heading(view: View, name: str, label: str, default: str, *, numeric: bool = True) -> Heading:
    """A column's head: a click sorts by it, numbers from the greatest down first, and another turns it round."""
    current, descending = sorting(view, default)
    order = ("descending" if descending else "ascending") if current == name else ""
    falls = not descending if current == name else numeric
    return Heading(label, view.href({"sort": f"{'-' if falls else ''}{name}"}), order, numeric)


def before(query: UsageQuery) -> UsageQuery | None:
    """The same span right before, as a whole; None where that would begin before 1970."""
    span = query.end_us - query.start_us
    if query.start_us < span:
        return None
    return replace(query, start_us=query.start_us - span, end_us=query.start_us, interval="total", cumulative=False)


def holds(query: UsageQuery, part: UsageQuery | None) -> bool:
    """Whether the buckets of a query, without its breakdown, add up to a total over its last part."""
    if part is None or query.cumulative or query.end_us != part.end_us:
        return False
    return _add_up_exactly(query.metrics) and part.start_us in query.bounds()


def last_part(answer: UsageAnswer, part: UsageQuery) -> UsageAnswer:
    """The total over its last part, from the buckets of an answer that `holds` it and has no breakdown."""
    first = answer.bounds.index(part.start_us)
    totals = {one.metric: _added(one.values[first:]) for one in answer.series}
    series = [Series(name, {}, [totals[name]], totals[name]) for name in part.metrics]
    return replace(answer, query=part, bounds=[part.start_us], series=series)


def _add_up_exactly(metrics: Sequence[str]) -> bool:
    return all(is_additive(name) and not name.startswith(QUANTITY) for name in metrics)


def adds_up(query: UsageQuery) -> bool:
    """Whether the series of its breakdown make the whole; else only the store knows that.

    Averages and peaks do not add up, a user in two groups would count twice, and floats would round in another order.
    """
    return not query.breakdown or (_add_up_exactly(query.metrics) and "group" not in query.breakdown)


def added_up(answer: UsageAnswer) -> UsageAnswer:
    """The answer without its breakdown, from its series."""
    query = answer.query
    if not query.breakdown:
        return answer
    series = [
        _sum([one for one in answer.series if one.metric == name], name, len(answer.bounds)) for name in query.metrics
    ]
    return replace(answer, query=replace(query, breakdown=()), series=series)


def _sum(series: Sequence[Series], metric: str, count: int) -> Series:
    values: list[Number | None] = [_added(one.values[i] for one in series) for i in range(count)]
    return Series(metric, {}, values, _added(one.total for one in series))


def _added(numbers: Iterable[Number | None]) -> Number:
    """As the API prints a sum: without the zeros that decimals of different lengths leave behind."""
    found = sum(number or 0 for number in numbers)
    return exact(found) if isinstance(found, Decimal) else found


def is_empty(answer: UsageAnswer) -> bool:
    """No series has anything: no call, or none that this metric says something about."""
    return not any(value for one in answer.series for value in one.values)


def past(view: View) -> str:
    """What the API requests' panel reaches back."""
    return view.value("past") if view.value("past") in PASTS else "day"


def requests_query(query: UsageQuery, past: str, now_us: int) -> UsageQuery:
    """Requests and concurrency of the past hour, day, month or year, of the same calls otherwise."""
    _, back, interval = PASTS[past]
    return replace(
        query,
        start_us=max(0, floor_us(now_us - back, interval, query.zone)),
        end_us=now_us,
        interval=interval,
        metrics=("requests", "concurrency", "concurrency_average"),
        breakdown=(),
        cumulative=False,
    )


def only(answer: UsageAnswer, metrics: Sequence[str]) -> UsageAnswer:
    """The part of an answer that is about these metrics, as if only they had been asked for."""
    series = [one for one in answer.series if one.metric in metrics]
    return replace(answer, query=replace(answer.query, metrics=tuple(metrics)), series=series)
