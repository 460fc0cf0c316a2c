"""An answer of `/v1/usage` as a table for a terminal. Pure: takes the JSON document, gives what rich prints.

Three forms, the first that fits the width: a row per bucket, a row per series, and a row per series with its course as
a sparkline. Numbers are rounded for the eye, as on the page; `--csv` and `--json` have the exact ones.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from aggregator.measures import Number, is_additive
from aggregator.page.wording import INTERVAL_NAMES, dimension_name, metric_name, percent, share, value_name, written

_BLOCKS = "▁▂▃▄▅▆▇█"
_UNBOUNDED = 1_000_000  # columns: what a table would take if it could
SPARK_CELLS = 40  # of a sparkline: as many buckets as fit beside a name and a number in 80 columns

_DATES = {"minute": "%Y-%m-%d %H:%M", "hour": "%Y-%m-%d %H:%M", "month": "%Y-%m", "year": "%Y"}

Document = dict[str, Any]


def title(document: Document) -> str:
    """What the table shows: `Credits by voice per day, 2026-01-01 to 2026-01-31 (UTC)`."""
    parts = [", ".join(metric_name(name) for name in document["metrics"])]
    if document["breakdown"]:
        parts.append("by " + " and ".join(dimension_name(name) for name in document["breakdown"]))
    if document["interval"] != "total":
        parts.append(f"per {INTERVAL_NAMES[document['interval']].lower()}")
    span = f"{_moment(document['start'])} to {_end(document['end'])} ({document['timezone']})"
    return f"{' '.join(parts)}, {span}"


def table(document: Document, console: Console) -> Table:
    forms = (_by_bucket, _by_series) if len(document["buckets"]) > 1 else (_by_series,)
    for form in forms:
        made = form(document)
        if Measurement.get(console, console.options.update(width=_UNBOUNDED), made).maximum <= console.width:
            return made
    return _courses(document)


def _by_bucket(document: Document) -> Table:
    series = document["series"]
    sums = _sums(document)
    made = _new(INTERVAL_NAMES[document["interval"]], footer=True)
    for one in series:
        made.add_column(_name(one, document), written(one["total"], one["metric"]), justify="right")
    if sums:
        made.add_column("All", written(_sum(one["total"] for one in series), series[0]["metric"]), justify="right")
    for i, label in enumerate(_labels(document)):
        cells = [written(one["values"][i], one["metric"]) for one in series]
        made.add_row(label, *cells, *([written(sums[i], series[0]["metric"])] if sums else []))
    return made


def _by_series(document: Document) -> Table:
    sums = _sums(document)
    series = document["series"]
    made = _new(_subject(document), footer=bool(sums))
    several = len(document["buckets"]) > 1
    for i, label in enumerate(_labels(document) if several else []):
        made.add_column(label, written(sums[i], series[0]["metric"]) if sums else "", justify="right")
    total = _sum(one["total"] for one in series) if sums else None
    made.add_column("Total", written(total, series[0]["metric"]) if sums else "", justify="right")
    if sums:
        made.add_column("Share", justify="right")
    for one in series:
        cells = [written(value, one["metric"]) for value in one["values"]] if several else []
        shares = [percent(share(one["total"], total))] if sums else []
        made.add_row(_name(one, document), *cells, written(one["total"], one["metric"]), *shares)
    return made


def _courses(document: Document) -> Table:
    sums = _sums(document)
    series = document["series"]
    total = _sum(one["total"] for one in series) if sums else None
    made = _new(_subject(document), footer=bool(sums))
    made.add_column("Total", written(total, series[0]["metric"]) if sums else "", justify="right")
    made.add_column("Course", sparkline(sums))
    for one in series:
        made.add_row(_name(one, document), written(one["total"], one["metric"]), sparkline(one["values"]))
    return made


def sparkline(values: Sequence[Number | None]) -> str:
    """The course of the values, the largest in full height; many buckets share a cell, which shows their largest."""
    step = -(-len(values) // SPARK_CELLS)
    cells = [
        max((float(value) for value in values[i : i + step] if value is not None), default=None)
        for i in range(0, len(values), step or 1)
    ]
    top = max((cell for cell in cells if cell is not None), default=0.0)
    return "".join(
        " " if cell is None else _BLOCKS[max(0, min(7, int(cell / top * 7.999)))] if top > 0 else _BLOCKS[0]
        for cell in cells
    )


def _new(first: str, *, footer: bool) -> Table:
    made = Table(box=None, pad_edge=False, show_footer=footer, header_style="bold", footer_style="bold")
    made.add_column(first, "Total" if footer else "", no_wrap=True)
    return made


def _subject(document: Document) -> str:
    return ", ".join(dimension_name(name) for name in document["breakdown"]) or "Metric"


def _name(series: Document, document: Document) -> Text:
    """Never markup: the values come from whoever called the API."""
    label = value_name(series["label"]) if series["key"] else metric_name(series["metric"])
    if series["key"] and len(document["metrics"]) > 1:
        label = f"{label} {metric_name(series['metric'])}"
    return Text(printable(label), no_wrap=True)


def printable(text: str) -> str:
    """Without what would steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _sums(document: Document) -> list[Number | None]:
    """Over all series, for each bucket; empty where that would be no true number, or only say the same again."""
    metrics, series = document["metrics"], document["series"]
    if len(series) < 2 or len(metrics) != 1 or not is_additive(metrics[0]) or "group" in document["breakdown"]:
        return []
    return [_sum(values) for values in zip(*(one["values"] for one in series), strict=True)]


def _sum(values: Any) -> Number:
    total: Number = sum(value for value in values if value is not None)
    return total


def _labels(document: Document) -> list[str]:
    """The buckets in the zone's own time; with the offset where an hour happens twice."""
    if document["interval"] == "total":
        return ["Total"]
    pattern = _DATES.get(document["interval"], "%Y-%m-%d")
    moments = [datetime.fromisoformat(bucket) for bucket in document["buckets"]]
    labels = [moment.strftime(pattern) for moment in moments]
    if len(set(labels)) == len(labels):
        return labels
    return [f"{label} {moment.strftime('%z')}" for label, moment in zip(labels, moments, strict=True)]


def _end(text: str) -> str:
    """The end is exclusive: at midnight, the last day is the one before."""
    moment = datetime.fromisoformat(text)
    return (
        _moment((moment - timedelta(days=1)).isoformat()) if (moment.hour, moment.minute) == (0, 0) else _moment(text)
    )


def _moment(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return moment.strftime("%Y-%m-%d" if (moment.hour, moment.minute) == (0, 0) else "%Y-%m-%d %H:%M")
