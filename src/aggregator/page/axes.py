"""The axes of a chart: what stands at them, in which unit, and how its numbers are written. Pure.

The time axis has one place per bucket. What it says of each is a table of texts that the expression looks up, quoted
as JSON: a name is text of some caller's, and in an expression of Vega's it could mean something.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from aggregator.measures import unit
from aggregator.page.ticks import ticks
from aggregator.page.wording import INTERVAL_NAMES, SECONDS_FROM_MS, metric_name
from aggregator.query import Series, UsageAnswer

Axis = dict[str, Any]


def time_axis(answer: UsageAnswer, gap: float) -> Axis:
    query = answer.query
    marks = ticks(answer.bounds, query.interval, query.zone)
    axis = {
        "values": [tick.index for tick in marks],
        "labelExpr": lookup((tick.index for tick in marks), (list(tick.lines) for tick in marks)),
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


def value_axis(metric: str, title: str, series: Sequence[Series], log: bool) -> Axis:
    axis: Axis = {"title": title, "tickCount": 5, "labelExpr": number_format(metric, in_seconds(metric, series))}
    if log:
        axis["values"] = _powers(series)
    if unit(metric) in ("requests", "calls") and metric != "concurrency_average":
        axis["tickMinStep"] = 1  # half a request is no place on an axis
    return axis


def value_scale(metric: str, log: bool) -> Axis:
    if log:
        return {"type": "log", "nice": True}
    if unit(metric) == "ratio":
        return {"domainMax": 1, "zero": False, "nice": False, "padding": 4}
    return {"zero": True, "nice": True}


def axis_title(metric: str, series: Sequence[Series]) -> str:
    return metric_name(metric) + unit_suffix(metric, series)


def unit_suffix(metric: str, series: Sequence[Series]) -> str:
    return {"ms": " (s)" if in_seconds(metric, series) else " (ms)", "ratio": " (%)"}.get(unit(metric), "")


def number_format(metric: str, seconds: bool) -> str:
    """A Vega expression for short numbers: 1.5k, 2M, 1B; bytes with their unit, shares as percents."""
    kind = unit(metric)
    if kind == "ratio":
        return "format(datum.value, '.4~%')"
    if kind == "ms":
        return "format(datum.value / 1000, ',.3~r')" if seconds else "format(datum.value, ',.4~r')"
    short = "replace(format(datum.value, '.3~s'), 'G', 'B')"
    if kind == "bytes":
        return "abs(datum.value) >= 1000 ? format(datum.value, '.3~s') + 'B' : format(datum.value, '~r') + ' B'"
    return f"abs(datum.value) >= 1000 ? {short} : format(datum.value, '.4~g')"


def in_seconds(metric: str, series: Sequence[Series]) -> bool:
    values = (float(value) for one in series for value in one.values if value is not None)
    return unit(metric) == "ms" and max(values, default=0) >= SECONDS_FROM_MS


def _powers(series: Sequence[Series]) -> list[float]:
    """Places on a logarithmic axis: powers of ten, and twice and five times them where there are few."""
    values = [float(value) for one in series for value in one.values if value is not None and value > 0]
    if not values:
        return [1]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 2 else (1,)
    return [step * 10.0**power for power in range(low, high + 1) for step in steps]


def lookup(keys: Iterable[object], values: Iterable[object]) -> str:
    """A Vega expression that turns an axis' or legend's key into its text; the text is data, quoted as JSON."""
    table = {str(key): value for key, value in zip(keys, values, strict=True)}
    return f"({json.dumps(table)})[datum.value]"
