"""The Analytics page as data: requests or webhooks by path, how they end and how long they take. Pure."""

from dataclasses import dataclass

from aggregator import charts
from aggregator.measures import Number
from aggregator.page.figure import (
    Cell,
    Closer,
    Entry,
    Figure,
    cell,
    closer_in,
    heat_figure,
    lines_figure,
    narrowed,
    usage_figure,
)
from aggregator.page.tile import Tile, of_total, total_of
from aggregator.page.usage_page import Heading, heading, only, sorting
from aggregator.page.view import Items, View
from aggregator.page.wording import percent, series_name, share
from aggregator.query import Series, UsageAnswer

METRICS = ("requests", "errors", "success_rate", "latency_avg", "latency_p95", "ttfb_avg", "ttfb_p95", "credits")
"""One question answers the tiles, the lines and the table."""
PATH_METRICS = ("requests", "errors", "success_rate", "latency_avg", "latency_p95", "ttfb_avg", "credits")
_TILES = ("requests", "success_rate", "latency_avg", "latency_p95", "ttfb_avg")
_LATENCY_SLOTS = (0, 4)  # the average, and the 95th percentile in the colour that peaks have elsewhere
_COLUMNS = {
    "requests": "Requests",
    "errors": "Failed",
    "success_rate": "Success rate",
    "latency_avg": "Latency, average",
    "latency_p95": "Latency, p95",
    "ttfb_avg": "First byte, average",
    "credits": "Credits",
}


@dataclass(frozen=True, slots=True)
class PathRow:
    """One path and everything about it."""

    entry: Entry
    share: float | None
    share_text: str
    cells: list[Cell]
    is_failing: bool


@dataclass(frozen=True, slots=True)
class PathTable:
    headings: list[Heading]
    rows: list[PathRow]


def questions(items: Items) -> dict[str, Items]:
    """What to ask the API for the page's parts: the same addresses give the same numbers there."""
    return {
        "whole": (*items, *(("metric", name) for name in METRICS)),
        "paths": (*items, *(("metric", name) for name in PATH_METRICS), ("breakdown", "route")),
        "outcomes": (*items, ("metric", "requests"), ("breakdown", "outcome")),
    }


def tiles(whole: UsageAnswer, before: UsageAnswer | None) -> list[Tile]:
    return [of_total(name, total_of(whole, name), total_of(before, name), whole.query) for name in _TILES]


def figures(view: View, whole: UsageAnswer, paths: UsageAnswer, outcomes: UsageAnswer) -> dict[str, Figure]:
    """By their ids, which an image's address names."""
    closer = closer_in(view)
    calls = "Webhooks" if view.value("kind") == "webhook" else "API requests"
    found = (
        usage_figure(view, only(paths, ("requests",)), "requests", id="paths", title=f"{calls} by path"),
        usage_figure(view, outcomes, "requests", id="outcomes", title="Outcomes"),
        usage_figure(view, only(whole, ("success_rate",)), "success_rate", id="success"),
        _pair(whole, ("latency_avg", "latency_p95"), "latency", "Latency", closer),
        _pair(whole, ("ttfb_avg", "ttfb_p95"), "ttfb", "Time to first byte", closer),
        heat_figure(view, only(paths, ("latency_p95",)), "latency_p95"),
    )
    return {figure.id: figure for figure in found}


def _pair(whole: UsageAnswer, metrics: tuple[str, str], id: str, title: str, closer: Closer) -> Figure:
    return lines_figure(id, title, only(whole, metrics), _LATENCY_SLOTS, closer)


def path_table(view: View, paths: UsageAnswer, whole: UsageAnswer) -> PathTable:
    """A row per path, sorted as the address says, else the most requested first."""
    by_key: dict[tuple[str, ...], dict[str, Series]] = {}
    for one in paths.series:
        by_key.setdefault(tuple(one.key.values()), {})[one.metric] = one
    slots = charts.series_slots(paths, "requests")
    rows = list(zip(by_key.values(), slots, strict=True))
    name, descending = sorting(view, "requests")
    if name == "path":
        rows.sort(key=lambda row: series_name(row[0]["requests"]).casefold(), reverse=descending)
    elif name in PATH_METRICS:
        rows.sort(key=lambda row: _rank(row[0][name].total), reverse=descending)
    requests = total_of(whole, "requests")
    headings = [heading(view, "path", "Path", "requests", numeric=False)]
    headings += [heading(view, name, _COLUMNS[name], "requests") for name in PATH_METRICS]
    return PathTable(headings, [_path_row(view, metrics, slot, requests) for metrics, slot in rows])


def _rank(value: Number | None) -> float:
    return float("-inf") if value is None else float(value)


def _path_row(view: View, metrics: dict[str, Series], slot: int, requests: Number | None) -> PathRow:
    one = metrics["requests"]
    part = share(one.total, requests)
    return PathRow(
        entry=Entry(slot, series_name(one), narrowed(view, one)),
        share=part,
        share_text=percent(part),
        cells=[cell(metrics[name].total, name) for name in PATH_METRICS],
        is_failing=bool(metrics["errors"].total),
    )
