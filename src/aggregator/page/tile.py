"""The tiles above the charts: one number each, how it changed, and what it is of. Pure."""

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from aggregator.buckets import floor_us, from_us
from aggregator.measures import Number, is_additive
from aggregator.page.figure import Cell, cell
from aggregator.page.wording import LONG_MONTHS, bucket_name, change, metric_name, percent, range_name, share, written
from aggregator.query import Series, UsageAnswer, UsageQuery

_BAD_WHEN_MORE = ("errors", "latency_avg", "latency_p50", "latency_p95", "latency_p99", "ttfb_avg", "ttfb_p95")
_GOOD_WHEN_MORE = ("success_rate",)
_LEAST_ELAPSED = timedelta(hours=12)  # of a month, before its pace says anything about its end


@dataclass(frozen=True, slots=True)
class Tile:
    """`trend` is `good`, `bad` or empty where neither is meant; `bar` a share from 0 to 1 of some limit."""

    label: str
    value: Cell
    note: str = ""
    change: str = ""
    trend: str = ""
    bar: float | None = None


def of_total(metric: str, now: Number | None, before: Number | None, query: UsageQuery) -> Tile:
    """The whole range, against the same span before it."""
    changed = change(now, before)
    note = range_name(query.start_us, query.end_us, query.zone)
    return Tile(metric_name(metric), cell(now, metric), note, changed, _trend(metric, changed))


def _trend(metric: str, changed: str) -> str:
    if not changed or changed.startswith("±"):
        return ""
    more = not changed.startswith("−")
    if metric in _BAD_WHEN_MORE:
        return "bad" if more else "good"
    if metric in _GOOD_WHEN_MORE:
        return "good" if more else "bad"
    return ""


def of_peak(totals: UsageAnswer, metric: str) -> Tile | None:
    """The bucket with the most; of a share, the one with the least."""
    one = next((one for one in totals.series if one.metric == metric), None)
    query = totals.query
    if one is None or query.cumulative or query.interval == "total" or len(totals.bounds) < 2:
        return None
    known = [(float(value), index) for index, value in enumerate(one.values) if value is not None]
    if not known:
        return None
    least = metric in _GOOD_WHEN_MORE
    _, index = min(known) if least else max(known, key=lambda pair: (pair[0], -pair[1]))
    label = f"{'Lowest' if least else 'Highest'} {query.interval}"
    return Tile(label, cell(one.values[index], metric), bucket_name(totals.bounds[index], query.interval, query.zone))


def month_to_date(query: UsageQuery, metric: str, now_us: int) -> UsageQuery | None:
    """What to ask for the month so far; None where parts do not add up to a whole."""
    if not is_additive(metric):
        return None
    start = floor_us(now_us, "month", query.zone)
    if start >= now_us:
        return None
    return UsageQuery(
        start, now_us, query.zone, query.zone_name, "total",
        metrics=(metric,), filters=query.filters, audience=query.audience,
    )  # fmt: skip


def of_month(month: UsageAnswer, end_us: int, limit: Decimal | None) -> list[Tile]:
    """What was used since the month began, and what its end will see at the same pace; `end_us` is that end."""
    query, used = month.query, month.series[0].total or 0
    metric = query.metrics[0]
    name = LONG_MONTHS[from_us(query.start_us, query.zone).month - 1]
    part = share(used, limit) if limit is not None and metric == "credits" else None
    of_limit = f"{percent(part or 0)} of {written(limit, metric)}" if limit is not None and metric == "credits" else ""
    tiles = [Tile("Month to date", cell(used, metric), of_limit or f"since 1 {name}", bar=part)]
    elapsed = query.end_us - query.start_us
    if elapsed >= _LEAST_ELAPSED // timedelta(microseconds=1):
        projected = int(float(used) * (end_us - query.start_us) / elapsed)
        tiles.append(Tile("Projected", Cell(written(projected, metric)), f"by the end of {name}, at this pace"))
    return tiles


def total_of(answer: UsageAnswer | None, metric: str) -> Number | None:
    """The total of the one series of a metric in an answer without a breakdown."""
    found: Series | None = next((one for one in answer.series if one.metric == metric), None) if answer else None
    return found.total if found else None
