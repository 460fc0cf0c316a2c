"""Answers as Vega-Lite specifications. Pure: takes answers, gives dicts that any Vega draws, in a browser or without.

The time axis has one place per bucket, because Vega knows only two time zones, the browser's and UTC, and because a
month is as wide as another. Series are columns `s0`, `s1`, … of the data and never named by their values: a name is
text of some caller's, and in a field or an expression of Vega's it could mean something. Colours are not in the
specification but in the configuration that `theme` gives, so that a chart changes from light to dark by its
configuration alone. Hovering is the signal `cursor` (a bucket's index or -1), which the page sets.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from aggregator.measures import Number, is_additive
from aggregator.page.axes import (
    axis_title,
    in_seconds,
    lookup,
    number_format,
    time_axis,
    unit_suffix,
    value_axis,
    value_scale,
)
from aggregator.page.colors import CARD, OTHER_SLOT, Theme, color, slots
from aggregator.page.wording import (
    bucket_end_us,
    bucket_name,
    dimension_name,
    metric_name,
    range_name,
    series_name,
    written,
)
from aggregator.query import OTHER, Series, UsageAnswer

Spec = dict[str, Any]
Shape = Literal["bars", "lines"]
SHAPES: tuple[Shape, ...] = ("bars", "lines")

MAX_DRAWN = 1500  # buckets: more than a wide screen has pixels for
MAX_CELLS = 24_000  # buckets times series: beyond it a browser takes seconds to draw
MAX_ROWS = 200  # series: more colours than anybody tells apart, and rows than a screen or an image has room for
_HEIGHT = 300
IMAGE_WIDTH, _IMAGE_HEIGHT = 960, 360  # fits a mail and a page of a document
_DENSE = 150  # buckets beyond which gaps between bars would be thinner than a pixel on a laptop
_POINTS = 45  # buckets up to which a line shows its points
_GAP = 0.22  # of a bucket's width between bars
_HEAT_ROW = 26  # pixels for a row of a heat map
_LIMIT_COLOR = "#e5484d"  # red on both cards
_ROW = 34  # pixels for a bar with its name
_ROOM_FOR_NUMBER = 1.15  # behind the longest bar of a total

FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
_RAMP = {"light": ["#eef0ff", "#a5b4fc", "#4f46e5", "#1e1b4b"], "dark": ["#23253f", "#4f46e5", "#a5b4fc", "#eef0ff"]}
"""From little to much, for heat maps: one hue, so that only the lightness says it."""
_INK = {"light": ("#667085", "#e7e9ee", "#c9ced8", "#101828"), "dark": ("#98a1b0", "#262a33", "#3a404c", "#f2f4f7")}
"""Text, grid, axis and title: contrast of the text against the card is 4.5 : 1 or more."""


def series_slots(answer: UsageAnswer, metric: str = "") -> list[int]:
    """The colour slot of each series (of one metric): by its value, so that it is the same in every view."""
    dimension = answer.query.breakdown[0] if len(answer.query.breakdown) == 1 else ""
    names = {tuple(one.key.values()): "\x1f".join(one.key.values()) for one in answer.series}
    chosen = slots((name for key, name in names.items() if OTHER not in key), dimension)
    return [_slot(one, chosen) for one in answer.series if metric in ("", one.metric)]


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
    buckets, series = len(answer.bounds), len(answer.series)
    return buckets <= MAX_DRAWN and series <= MAX_ROWS and buckets * series <= MAX_CELLS


def usage_chart(answer: UsageAnswer, metric: str, shape: Shape | None = None, log: bool = False) -> Spec:
    """One metric over time, by series. `log` draws lines, since parts of a bar mean nothing on such an axis."""
    series = [one for one in answer.series if one.metric == metric]
    text = description(answer, metric)
    if answer.query.interval == "total":
        return _frame(text) | _totals(series, metric)
    shape = "lines" if log else shape or default_shape(metric)
    return _over_time(answer, series, metric, axis_title(metric, series), text, shape, log)


def lines_chart(answer: UsageAnswer, title: str, limit: int | None = None) -> Spec:
    """All series of the answer as lines on one axis: several metrics of one unit. A limit is a dashed line above."""
    metric = answer.query.metrics[0]
    names = ", ".join(metric_name(one.metric).lower() for one in answer.series)
    text = f"{title}: {names}, {range_name(answer.query.start_us, answer.query.end_us, answer.query.zone)}."
    spec = _over_time(answer, answer.series, metric, title + unit_suffix(metric, answer.series), text, "lines", False)
    if limit is not None:
        rule = {"type": "rule", "strokeDash": [6, 4], "strokeWidth": 1.5, "aria": False, "clip": True}
        where = {"y": {"datum": limit, "type": "quantitative"}, "color": {"value": _LIMIT_COLOR}}
        where |= {"x": {"value": 0}, "x2": {"value": "width"}}
        spec["layer"].append({"data": {"values": [{}]}, "mark": rule, "encoding": where})
    return spec


def heat_map(answer: UsageAnswer, metric: str) -> Spec:
    """A row per series, a column per bucket: the darker (on a dark card the lighter), the more."""
    series = [one for one in answer.series if one.metric == metric]
    rows = [
        {"i": i, "row": index, "value": _drawn(value, log=False)}
        for index, one in enumerate(series)
        for i, value in enumerate(one.values)
        if value is not None
    ]
    names = lookup(range(len(series)), map(series_name, series))
    axis = {"labelExpr": names, "labelLimit": 240, "ticks": False, "domain": False, "title": None}
    legend = {
        "title": axis_title(metric, series), "orient": "top", "gradientLength": 160, "gradientThickness": 8,
        "labelExpr": number_format(metric, in_seconds(metric, series)), "titleOrient": "left", "offset": 4,
        "titleFontWeight": "normal",
    }  # fmt: skip
    # By the square root: one slow hour among thousands must not make all others look the same.
    color = {"field": "value", "type": "quantitative", "scale": {"type": "sqrt", "zero": True}, "legend": legend}
    return _frame(description(answer, metric)) | {
        "height": max(1, len(series)) * _HEAT_ROW,
        "data": {"values": rows},
        "params": [{"name": "cursor", "value": -1}],
        "encoding": {"x": time_axis(answer, gap=0)},
        "layer": [
            {
                "mark": {"type": "rect", "aria": False},
                "encoding": {
                    "y": {"field": "row", "type": "ordinal", "axis": axis, "scale": {"paddingInner": 0.12}},
                    "color": color,
                    "opacity": {"condition": {"test": "cursor < 0 || datum.i === cursor", "value": 1}, "value": 0.55},
                },
            }
        ],
    }


def _over_time(
    answer: UsageAnswer, series: Sequence[Series], metric: str, title: str, text: str, shape: Shape, log: bool
) -> Spec:
    gap = 0 if len(answer.bounds) > _DENSE else _GAP
    axis = value_axis(metric, title, series, log)
    y = {"field": "value", "type": "quantitative", "axis": axis, "scale": value_scale(metric, log)}
    marks = _bars(answer, series, y) if shape == "bars" else _lines(answer, series, y, log)
    return _frame(text) | {
        "data": {"values": _rows(series, len(answer.bounds), log)},
        "params": [{"name": "cursor", "value": -1}],
        "transform": [
            {"fold": _columns(series), "as": ["series", "value"]},
            {"calculate": "toNumber(slice(datum.series, 1))", "as": "rank"},
        ],
        "encoding": {"x": time_axis(answer, gap)},
        "layer": [_cursor(gap), *marks],
    }


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
        "range": {
            "category": [color(slot, name) for slot in series_slots] or [color(0, name)],
            "ramp": _RAMP[name],
            "heatmap": _RAMP[name],
        },
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


def image(spec: Spec, heading: str, subtitle: str, names: Sequence[str], width: int = IMAGE_WIDTH) -> Spec:
    """A chart for a mail or a document: of its own size, with its title and the names of its series inside."""
    layers = [{**layer, "encoding": dict(layer["encoding"])} for layer in spec["layer"]]
    found = spec | {
        "layer": layers,
        "width": width,
        "padding": 20,
        "autosize": {"type": "pad"},
        "title": {"text": heading, "subtitle": subtitle},
    }
    if found["height"] == _HEIGHT:
        found["height"] = _IMAGE_HEIGHT
    if len(names) > 1 and "transform" in spec:
        layers[1]["encoding"]["color"] = layers[1]["encoding"]["color"] | {
            "legend": {
                "title": None,
                "orient": "bottom",
                "columns": 4,
                "labelLimit": 200,
                "labelExpr": lookup((f"s{index}" for index in range(len(names))), names),
            }
        }
    return found


def _frame(text: str) -> Spec:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": text,
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


def _bars(answer: UsageAnswer, series: Sequence[Series], y: Spec) -> list[Spec]:
    """Stacked, the greatest at the bottom, where it is read against the axis; what may still grow is paler.

    As an area when the bars would be hair-thin, or rise to a total.
    """
    order = {"field": "rank", "type": "quantitative", "sort": "ascending"}
    encoding = {"y": y | {"stack": "zero"}, "color": _color(series), "order": order}
    if answer.query.cumulative or len(answer.bounds) > _DENSE:
        interpolate = "monotone" if answer.query.cumulative else "step"
        mark = {"type": "area", "interpolate": interpolate, "fillOpacity": 0.85, "line": False, "aria": False}
        return [{"mark": mark, "encoding": encoding}]
    test = f"datum.i >= {_first_open(answer)}"
    opacity = {"condition": {"test": test, "value": 0.55}, "value": 1}
    return [{"mark": {"type": "bar", "aria": False}, "encoding": encoding | {"opacity": opacity}}]


def _lines(answer: UsageAnswer, series: Sequence[Series], y: Spec, log: bool) -> list[Spec]:
    """A line breaks where there is no value; a value alone between two gaps makes no line, so it gets a point."""
    mark: Spec = {"type": "line", "strokeWidth": 2, "interpolate": "monotone", "aria": False}
    mark |= {"strokeCap": "round", "strokeJoin": "round"}
    if len(answer.bounds) <= _POINTS:
        mark["point"] = {"size": 22, "aria": False}
    encoding = {"y": y, "color": _color(series)}
    rows = [
        {"i": i, "series": f"s{index}", "value": value}
        for index, one in enumerate(series)
        for i, value in _lone([_drawn(value, log) for value in one.values])
    ]
    point = {"type": "point", "filled": True, "size": 22, "opacity": 1, "aria": False}
    lone = [{"data": {"values": rows}, "mark": point, "encoding": encoding}] if rows else []
    return [{"mark": mark, "encoding": encoding}, *lone]


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
    names = lookup(range(len(series)), map(series_name, series))
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
