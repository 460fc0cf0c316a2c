"""Answers as Vega-Lite specifications. Pure: takes answers, gives dicts that any Vega draws, in a browser or without.

The time axis has one place per bucket, because Vega knows only two time zones, the browser's and UTC, and because a
month is as wide as another. Series are columns `s0`, `s1`, … of the data and never named by their values: a name is
text of some caller's, and in a field or an expression of Vega's it could mean something. Colours are not in the
specification but in the configuration that `theme` gives, so that a chart changes from light to dark by its
configuration alone. Hovering is the signal `cursor` (a bucket's index or -1), which the page sets.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from aggregator.colors import CARD, OTHER_SLOT, Theme, color, slots
from aggregator.measures import Number, is_additive, unit
from aggregator.query import OTHER, Series, UsageAnswer
from aggregator.ticks import ticks
from aggregator.wording import (
    INTERVAL_NAMES,
    bucket_end_us,
    bucket_name,
    dimension_name,
    metric_name,
    range_name,
    series_name,
    written,
)

Spec = dict[str, Any]
Shape = Literal["bars", "lines"]
SHAPES: tuple[Shape, ...] = ("bars", "lines")

MAX_DRAWN = 1500  # buckets: more than a wide screen has pixels for
MAX_CELLS = 24_000  # buckets times series: beyond it a browser takes seconds to draw
_HEIGHT = 300
_IMAGE_WIDTH, _IMAGE_HEIGHT = 960, 360  # fits a mail and a page of a document
_DENSE = 150  # buckets beyond which gaps between bars would be thinner than a pixel on a laptop
_POINTS = 45  # buckets up to which a line shows its points
_GAP = 0.22  # of a bucket's width between bars
_SECONDS_FROM_MS = 10_000  # on an axis that reaches this far, milliseconds would be all zeros
_ROW = 34  # pixels for a bar with its name
_ROOM_FOR_NUMBER = 1.15  # behind the longest bar of a total

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
_INK = {"light": ("#667085", "#e7e9ee", "#c9ced8", "#101828"), "dark": ("#98a1b0", "#262a33", "#3a404c", "#f2f4f7")}
"""Text, grid, axis and title: contrast of the text against the card is 4.5 : 1 or more."""


def series_slots(answer: UsageAnswer) -> list[int]:
    """The colour slot of each series: by its value, so that it is the same in every view of the same dimension."""
    dimension = answer.query.breakdown[0] if len(answer.query.breakdown) == 1 else ""
    names = {tuple(one.key.values()): "\x1f".join(one.key.values()) for one in answer.series}
    chosen = slots((name for key, name in names.items() if OTHER not in key), dimension)
    return [_slot(one, chosen) for one in answer.series]


def _slot(series: Series, chosen: dict[str, int]) -> int:
    if not series.key:
        return 0
    return OTHER_SLOT if OTHER in series.key.values() else chosen["\x1f".join(series.key.values())]


def default_shape(metric: str) -> Shape:
    """What adds up is stacked; an average or a peak is a line of its own."""
    return "bars" if is_additive(metric) else "lines"


def shape_of(text: str, metric: str) -> Shape:
    """The shape of that name; anything else leaves it to the metric."""
    return next((shape for shape in SHAPES if shape == text), default_shape(metric))


def is_drawable(answer: UsageAnswer) -> bool:
    return len(answer.bounds) <= MAX_DRAWN and len(answer.bounds) * len(answer.series) <= MAX_CELLS


def usage_chart(answer: UsageAnswer, metric: str, shape: Shape | None = None, log: bool = False) -> Spec:
    """One metric over time, by series. `log` draws lines, since parts of a bar mean nothing on such an axis."""
    series = [one for one in answer.series if one.metric == metric]
    if answer.query.interval == "total":
        return _frame(answer, metric) | _totals(series, metric)
    gap = 0 if len(answer.bounds) > _DENSE else _GAP
    return _frame(answer, metric) | {
        "data": {"values": _rows(series, len(answer.bounds), log)},
        "params": [{"name": "cursor", "value": -1}],
        "transform": [
            {"fold": _columns(series), "as": ["series", "value"]},
            {"calculate": "toNumber(slice(datum.series, 1))", "as": "rank"},
        ],
        "encoding": {"x": _time(answer, gap)},
        "layer": [_cursor(gap), *_marks(answer, series, "lines" if log else shape or default_shape(metric), log)],
    }


def _marks(answer: UsageAnswer, series: Sequence[Series], shape: Shape, log: bool) -> list[Spec]:
    metric = series[0].metric if series else answer.query.metrics[0]
    y = {"field": "value", "type": "quantitative", "axis": _value_axis(metric, series, log)}
    y["scale"] = _scale(metric, log)
    if shape == "bars":
        y["stack"] = "zero"
    marks = _bars(answer) if shape == "bars" else _lines(answer)
    layer = {"mark": marks["mark"], "encoding": {"y": y, "color": _color(series), **marks["encoding"]}}
    return [layer, *([] if shape == "bars" else _lone_points(series, log, y))]


def description(answer: UsageAnswer, metric: str) -> str:
    """A chart in one sentence, for those who do not see it."""
    query = answer.query
    series = [one for one in answer.series if one.metric == metric]
    by = f" by {' and '.join(dimension_name(name).lower() for name in query.breakdown)}" if query.breakdown else ""
    when = range_name(query.start_us, query.end_us, query.zone)
    text = f"{title(answer, metric)}{by}, {when} ({query.zone_name})."
    top = [f"{series_name(one)} {written(one.total, metric)}" for one in series[:3]]
    if len(series) > 1:
        return f"{text} {len(series)} series; first {', '.join(top)}."
    if not series:
        return text
    text = f"{text} In all {written(series[0].total, metric)}"
    values = [(value, index) for index, value in enumerate(series[0].values) if value is not None]
    if not values or query.interval == "total" or query.cumulative:
        return f"{text}."
    peak, index = max(values, key=lambda pair: (float(pair[0]), -pair[1]))
    where = bucket_name(answer.bounds[index], query.interval, query.zone)
    return f"{text}; the most {written(peak, metric)}, {where}."


def theme(name: Theme, series_slots: Sequence[int]) -> Spec:
    """Vega-Lite's configuration for a theme; the series' colours in their order are its `category` range."""
    text, grid, axis, title = _INK[name]
    return {
        "background": CARD[name],
        "font": FONT,
        "view": {"stroke": None},
        "range": {"category": [color(slot, name) for slot in series_slots] or [color(0, name)]},
        "axis": {
            "labelColor": text, "titleColor": text, "gridColor": grid, "domainColor": axis, "tickColor": axis,
            "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelPadding": 6,
        },
        "axisY": {"domain": False, "ticks": False, "titleAnchor": "start", "titleAlign": "left", "titleAngle": 0,
                  "titleY": -14, "titleX": 0},
        "legend": {"labelColor": text, "titleColor": text, "labelFontSize": 12, "symbolType": "square"},
        "title": {"color": title, "subtitleColor": text, "fontSize": 16, "subtitleFontSize": 12,
                  "anchor": "start", "frame": "bounds", "offset": 20, "subtitlePadding": 6},
        "text": {"color": title, "fontSize": 12},
        "mark": {"color": color(0, name)},
    }  # fmt: skip


def usage_image(answer: UsageAnswer, metric: str, shape: Shape | None = None, log: bool = False) -> Spec:
    """The chart for a mail or a document: of a fixed size, with its title and legend inside."""
    query, series = answer.query, [one for one in answer.series if one.metric == metric]
    spec = usage_chart(answer, metric, shape, log)
    spec |= {
        "width": _IMAGE_WIDTH,
        "height": _IMAGE_HEIGHT if query.interval != "total" else spec["height"],
        "padding": 20,
        "autosize": {"type": "pad"},
        "title": {
            "text": title(answer, metric),
            "subtitle": f"{range_name(query.start_us, query.end_us, query.zone)} ({query.zone_name})",
        },
    }
    if query.breakdown and query.interval != "total":
        spec["layer"][1]["encoding"]["color"]["legend"] = {
            "title": None,
            "orient": "bottom",
            "columns": 4,
            "labelLimit": 200,
            "labelExpr": _lookup(_columns(series), map(series_name, series)),
        }
    return spec


def _frame(answer: UsageAnswer, metric: str) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": description(answer, metric),
        "width": "container",
        "height": _HEIGHT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"left": 0, "right": 4, "top": 4, "bottom": 8},
    }


def title(answer: UsageAnswer, metric: str) -> str:
    if answer.query.cumulative:
        return f"{metric_name(metric)}, cumulative"
    if answer.query.interval == "total":
        return f"{metric_name(metric)} in total"
    return f"{metric_name(metric)} per {answer.query.interval}"


def _columns(series: Sequence[Series]) -> list[str]:
    return [f"s{index}" for index in range(len(series))]


def _rows(series: Sequence[Series], count: int, log: bool) -> list[dict[str, float | int | None]]:
    """A row per bucket, a column per series: half the bytes of a row per value, and no name of a caller's in it."""
    return [
        {"i": i} | {f"s{index}": _drawn(one.values[i], log) for index, one in enumerate(series)} for i in range(count)
    ]


def _drawn(value: Number | None, log: bool) -> float | int | None:
    if value is None or (log and value <= 0):  # a logarithmic axis has no place for nothing
        return None
    return value if isinstance(value, int) else float(value)


def _bars(answer: UsageAnswer) -> Spec:
    """Stacked, the greatest at the bottom, where it is read against the axis; what may still grow is paler.

    As an area when the bars would be hair-thin, or rise to a total.
    """
    order = {"field": "rank", "type": "quantitative", "sort": "ascending"}
    if answer.query.cumulative or len(answer.bounds) > _DENSE:
        mark = {"type": "area", "interpolate": "monotone" if answer.query.cumulative else "step", "aria": False}
        return {"mark": mark | {"fillOpacity": 0.85, "line": False}, "encoding": {"order": order}}
    first_open = _first_open(answer)
    opacity = {"condition": {"test": f"datum.i >= {first_open}", "value": 0.55}, "value": 1}
    return {"mark": {"type": "bar", "aria": False}, "encoding": {"opacity": opacity, "order": order}}


def _lines(answer: UsageAnswer) -> Spec:
    """A line breaks where there is no value."""
    mark: Spec = {"type": "line", "strokeWidth": 2, "interpolate": "monotone", "aria": False}
    mark |= {"strokeCap": "round", "strokeJoin": "round"}
    if len(answer.bounds) <= _POINTS:
        mark["point"] = {"size": 22, "aria": False}
    return {"mark": mark, "encoding": {}}


def _lone_points(series: Sequence[Series], log: bool, y: Spec) -> list[Spec]:
    """A value alone between two gaps makes no line, so it gets a point."""
    rows = [
        {"i": i, "series": f"s{index}", "value": value}
        for index, one in enumerate(series)
        for i, value in _lone([_drawn(value, log) for value in one.values])
    ]
    mark = {"type": "point", "filled": True, "size": 22, "opacity": 1, "aria": False}
    return [{"data": {"values": rows}, "mark": mark, "encoding": {"y": y, "color": _color(series)}}] if rows else []


def _lone(values: Sequence[float | None]) -> Iterator[tuple[int, float]]:
    padded = [None, *values, None]
    for index, (before, value, after) in enumerate(zip(padded, padded[1:], padded[2:], strict=False)):
        if value is not None and before is None and after is None:
            yield index, value


def _first_open(answer: UsageAnswer) -> int:
    """The first bucket that is not over, or whose calls may still be on their way."""
    query = answer.query
    for index, bound in enumerate(answer.bounds):
        following = answer.bounds[index + 1] if index + 1 < len(answer.bounds) else None
        if (following or bucket_end_us(bound, query.interval, query.zone)) > answer.complete_until_us:
            return index
    return len(answer.bounds)


def _cursor(gap: float) -> Spec:
    """What lies under the pointer: a pale bar over the whole height, drawn for every bucket and shown for one."""
    return {
        "transform": [{"filter": "datum.series === 's0'"}],
        "mark": {"type": "bar", "aria": False, "color": "#8a94a6", "width": {"band": 1 / (1 - gap)}},
        "encoding": {
            "y": {"value": 0},
            "y2": {"value": "height"},
            "opacity": {"condition": {"test": "datum.i === cursor", "value": 0.16}, "value": 0},
        },
    }


def _time(answer: UsageAnswer, gap: float) -> Spec:
    query = answer.query
    marks = ticks(answer.bounds, query.interval, query.zone)
    axis = {
        "values": [tick.index for tick in marks],
        "labelExpr": _lookup((tick.index for tick in marks), (list(tick.lines) for tick in marks)),
        "labelAngle": 0,
        "labelOverlap": "greedy",
        "labelFlush": True,
        "grid": False,
        "ticks": True,
        "tickSize": 4,
        "title": f"{INTERVAL_NAMES[query.interval]} ({query.zone_name})",
        "titlePadding": 10,
    }
    scale = {"paddingInner": gap, "paddingOuter": gap / 2, "domain": list(range(len(answer.bounds)))}
    return {"field": "i", "type": "ordinal", "axis": axis, "scale": scale}


def _lookup(keys: Iterable[object], values: Iterable[object]) -> str:
    """A Vega expression that turns an axis' or legend's key into its text; the text is data, quoted as JSON."""
    table = {str(key): value for key, value in zip(keys, values, strict=True)}
    return f"({json.dumps(table)})[datum.value]"


def _value_axis(metric: str, series: Sequence[Series], log: bool) -> Spec:
    seconds = unit(metric) == "ms" and _greatest(series) >= _SECONDS_FROM_MS
    axis: Spec = {"title": _axis_title(metric, seconds), "tickCount": 5, "labelExpr": _number(metric, seconds)}
    if log:
        axis["values"] = _powers(series)
    if unit(metric) in ("requests", "calls") and metric != "concurrency_average":
        axis["tickMinStep"] = 1  # half a request is no place on an axis
    return axis


def _powers(series: Sequence[Series]) -> list[float]:
    """Places on a logarithmic axis: powers of ten, and twice and five times them where there are few."""
    values = [float(value) for one in series for value in one.values if value is not None and value > 0]
    if not values:
        return [1]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    return [step * 10.0**power for power in range(low, high + 1) for step in steps]


def _greatest(series: Sequence[Series]) -> float:
    return max((float(value) for one in series for value in one.values if value is not None), default=0)


def _axis_title(metric: str, seconds: bool) -> str:
    units = {"ms": " (s)" if seconds else " (ms)", "ratio": " (%)"}
    return metric_name(metric) + units.get(unit(metric), "")


def _number(metric: str, seconds: bool) -> str:
    """A Vega expression for short numbers: 1.5k, 2M, 1B; bytes with their unit, shares as percents."""
    kind = unit(metric)
    if kind == "ratio":
        return "format(datum.value, '.4~%')"
    if kind == "ms":
        return "format(datum.value / 1000, ',~r')" if seconds else "format(datum.value, ',~r')"
    short = "replace(format(datum.value, '.3~s'), 'G', 'B')"
    if kind == "bytes":
        return "abs(datum.value) >= 1000 ? format(datum.value, '.3~s') + 'B' : format(datum.value, '~r') + ' B'"
    return f"abs(datum.value) >= 1000 ? {short} : format(datum.value, '.4~g')"


def _scale(metric: str, log: bool) -> Spec:
    if log:
        return {"type": "log", "nice": True}
    if unit(metric) == "ratio":
        return {"domainMax": 1, "zero": False, "nice": False, "padding": 4}
    return {"zero": True, "nice": True}


def _color(series: Sequence[Series]) -> Spec:
    return {
        "field": "series",
        "type": "nominal",
        "scale": {"domain": _columns(series), "range": "category"},
        "legend": None,
    }


def _totals(series: Sequence[Series], metric: str) -> Spec:
    """One bar per series, with its name before it and its number behind it."""
    lengths = [_drawn(one.total, log=False) for one in series]
    rows = [
        {"i": i, "series": f"s{i}", "value": length, "text": written(one.total, metric)}
        for i, (one, length) in enumerate(zip(series, lengths, strict=True))
    ]
    names = _lookup(range(len(series)), map(series_name, series))
    row = {"labelExpr": names, "labelLimit": 220, "ticks": False, "domain": False, "title": None}
    most = max((abs(length or 0) for length in lengths), default=0)
    x: Spec = {"field": "value", "type": "quantitative", "axis": None}
    x["scale"] = {"domainMax": most * _ROOM_FOR_NUMBER or 1, "zero": True, "nice": False}
    number = {"type": "text", "aria": False, "align": "left", "dx": 6}
    return {
        "height": max(1, len(series)) * _ROW,
        "data": {"values": rows},
        "params": [{"name": "cursor", "value": -1}],
        "encoding": {"y": {"field": "i", "type": "ordinal", "axis": row, "scale": {"padding": 0.3}}, "x": x},
        "layer": [
            {"mark": {"type": "bar", "aria": False, "cornerRadiusEnd": 3}, "encoding": {"color": _color(series)}},
            {"mark": number, "encoding": {"text": {"field": "text"}}},
        ],
    }


def sparkline(values: Sequence[Number | None], points: int) -> str:
    """A path for an SVG of 100 by 24: the values from left to right, the greatest at the top, zero at the bottom.

    Many values are drawn as the mean of every few; a gap stays one.
    """
    size = max(1, math.ceil(len(values) / points))
    means = [_mean(values[i : i + size]) for i in range(0, len(values), size)]
    most = max((mean for mean in means if mean is not None), default=0)
    step = 100 / max(1, len(means) - 1)
    path, pen = [], "M"
    for i, mean in enumerate(means):
        if mean is None:
            pen = "M"
            continue
        path.append(f"{pen}{i * step:.4g} {23 - 22 * max(0.0, mean) / (most or 1):.4g}")
        pen = "L"
    return "".join(path)


def _mean(values: Sequence[Number | None]) -> float | None:
    found = [float(value) for value in values if value is not None]
    return sum(found) / len(found) if found else None
