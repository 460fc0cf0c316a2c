"""The controls of a page: what each offers, what is chosen, and what is wrong with it. Pure.

Each is a form control with the API's own parameter as its name, so that the page works as a plain form.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from aggregator.buckets import INTERVALS, from_us
from aggregator.dimensions import DIMENSIONS, OPERATOR_DIMENSIONS, is_dimension
from aggregator.measures import METRICS, is_additive
from aggregator.page.view import CUSTOM, KEPT, PICK, RANGES, Items, View, month
from aggregator.page.wording import (
    INTERVAL_NAMES,
    dimension_name,
    last_name,
    metric_name,
    range_name,
    series_name,
    value_name,
    written,
)
from aggregator.query import OTHER, UsageAnswer, UsageQuery
from aggregator.tokens import Principal

Names = Mapping[str, Mapping[str, str]]
"""Dimension → value → display name."""

MOST_CHOICES = 100  # of a picker: a longer list is searched, not read

_SECONDS: Mapping[str, int] = {
    "minute": 60, "hour": 3600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400, "year": 365 * 86_400,
}  # fmt: skip
_MOST_BUCKETS = 800  # that a choice of granularity offers: a bar each on a wide screen
_DATE = 10  # characters of a bare date
METRIC_GROUPS: Mapping[str, Sequence[str]] = {
    "Usage": ("credits", "requests", "errors"),
    "Quality": ("success_rate", "latency_avg", "latency_p50", "latency_p95", "latency_p99", "ttfb_avg", "ttfb_p95"),
    "Load": ("concurrency", "concurrency_average", "request_bytes", "response_bytes"),
}
_WORKSPACE_ONLY = ("user", "group")  # of one's own account there is nothing to break down by these


@dataclass(frozen=True, slots=True)
class Option:
    value: str
    label: str
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Options under a heading."""

    label: str
    options: list[Option]


@dataclass(frozen=True, slots=True)
class Filtered:
    """A filter that is set: a chip with the way to take it away."""

    label: str
    href: str


@dataclass(frozen=True, slots=True)
class Link:
    label: str
    href: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A value that calls in the view have, how many they are, and whether it is filtered by."""

    value: str
    label: str
    requests: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Picker:
    """The form of one filter; `kept` are values that are chosen and do not match the search."""

    dimension: str
    label: str
    search: str
    negated: bool
    choices: list[Choice]
    left_out: int
    carried: Items
    kept: Items


@dataclass(frozen=True, slots=True)
class Step:
    """The same span right before or after; `href` is empty where the future begins."""

    label: str
    href: str


def ranges(view: View, query: UsageQuery | None, today: datetime) -> list[Option]:
    """The presets, the two dates, and, where the address has moments that no date control can hold, those."""
    chosen = _chosen_range(view, today)
    options = [Option(value, label, value == chosen) for value, label in RANGES.items()]
    if chosen not in RANGES and chosen not in (CUSTOM, KEPT):
        options.append(Option(chosen, last_name(chosen), chosen=True))
    if chosen == KEPT and query:
        options.append(Option(KEPT, range_name(query.start_us, query.end_us, query.zone), chosen=True))
    return [*options, Option(CUSTOM, "Custom range", chosen == CUSTOM)]


def _chosen_range(view: View, today: datetime) -> str:
    start, end = view.value("start"), view.value("end")
    if not start and not end:
        return view.value("last", "30d")
    given: Items = tuple((name, view.value(name)) for name in ("start", "end") if view.value(name))
    for choice in ("this-month", "last-month"):
        if month(choice, today.date()) == given:
            return choice
    return CUSTOM if start and len(start) <= _DATE and len(end) <= _DATE else KEPT


def kept(view: View, shape: str) -> Items:
    """What a form sends beside its controls: the moments of the address, and a chart that nobody has chosen."""
    moments = [(f"kept_{name}", view.value(name)) for name in ("start", "end", "last") if view.value(name)]
    return (*moments, *([] if view.value("chart") else [("kept_chart", shape)]))


def dates(query: UsageQuery) -> tuple[str, str]:
    """First and last day of the range, for the two date controls."""
    first, last = from_us(query.start_us, query.zone), from_us(query.end_us - 1, query.zone)
    return first.date().isoformat(), last.date().isoformat()


def steps(view: View, query: UsageQuery, now_us: int) -> tuple[Step, Step]:
    """One range back and one forward: by whole days where the buckets are, else by the very span."""
    if query.interval in ("minute", "hour") and query.end_us - query.start_us <= 2 * 86_400_000_000:
        span = query.end_us - query.start_us
        before = _moments(query.start_us - span, query.start_us, query.zone)
        after = _moments(query.end_us, query.end_us + span, query.zone)
    else:
        before, after = _days_around(query)
    back = view.href({"start": before[0], "end": before[1], "last": None})
    forward = view.href({"start": after[0], "end": after[1], "last": None}) if query.end_us < now_us else ""
    return Step("Earlier", back), Step("Later", forward)


def _moments(start_us: int, end_us: int, zone: tzinfo) -> tuple[str, str]:
    return from_us(start_us, zone).isoformat(), from_us(end_us, zone).isoformat()


def _days_around(query: UsageQuery) -> tuple[tuple[str, str], tuple[str, str]]:
    first = from_us(query.start_us, query.zone).date()
    last = from_us(query.end_us - 1, query.zone).date()
    one = timedelta(days=1)
    if first.day == 1 and first.month == last.month and (last + one).month != last.month:
        back, forward = first - one, (last + one).replace(day=28) + timedelta(days=4)
        return (back.replace(day=1).isoformat(), back.isoformat()), (
            (last + one).isoformat(),
            (forward.replace(day=1) - one).isoformat(),
        )
    span = last - first + one
    return ((first - span).isoformat(), (first - one).isoformat()), (
        (last + one).isoformat(),
        (last + span).isoformat(),
    )


def intervals(query: UsageQuery | None, asked: str) -> list[Option]:
    """Those that make sense for the range: at least two buckets, and no more than can be told apart."""
    if query is None:
        return [Option(name, INTERVAL_NAMES[name], name == asked) for name in INTERVALS]
    return [
        Option(name, INTERVAL_NAMES[name], name == query.interval)
        for name in INTERVALS
        if name == query.interval or _makes_sense(name, query)
    ]


def fitting(chosen: str, whole: UsageQuery) -> str:
    """The chosen interval where it makes sense for the range, else the nearest that does.

    For what a form sends: somebody who goes from a year to an hour has not asked for a chart of one bar.
    """
    sensible = [name for name in INTERVALS if name != "total" and _makes_sense(name, whole)]
    if chosen in sensible or chosen not in _SECONDS or not sensible:
        return chosen
    return min(sensible, key=lambda name: abs(_SECONDS[name] - _SECONDS[chosen]))


def _makes_sense(interval: str, query: UsageQuery) -> bool:
    seconds = (query.end_us - query.start_us) / 1_000_000
    return interval == "total" or 1.5 < seconds / _SECONDS[interval] <= _MOST_BUCKETS


def metrics(chosen: str, quantities: Iterable[str]) -> list[Group]:
    """Credits first, then what the app meters by itself, then the rest."""
    known = [f"quantity.{name}" for name in quantities]
    if chosen not in METRICS and chosen not in known:
        known.append(chosen)
    groups = {"Usage": [*METRIC_GROUPS["Usage"], *known], **{k: v for k, v in METRIC_GROUPS.items() if k != "Usage"}}
    return [
        Group(label, [Option(name, metric_name(name), name == chosen) for name in names])
        for label, names in groups.items()
    ]


def dimensions(principal: Principal, scope: str) -> list[str]:
    """What the principal may tell calls apart by; of one's own account not by user or group."""
    wide = principal.is_operator or scope == "workspace"
    names = [name for name in DIMENSIONS if wide or name not in _WORKSPACE_ONLY]
    return [*(OPERATOR_DIMENSIONS if principal.is_operator else ()), *names]


def breakdowns(chosen: str, principal: Principal, scope: str) -> list[Option]:
    names = dimensions(principal, scope)
    if chosen and chosen not in names:
        names.append(chosen)
    return [Option("", "None", not chosen), *(Option(name, dimension_name(name), name == chosen) for name in names)]


def filters(view: View, principal: Principal, names: Names | None = None) -> list[Filtered]:
    """The filters that are set, each value by itself."""
    found = []
    for name, value in view.items:
        dimension = name.removeprefix("not.")
        if is_dimension(dimension, principal.is_operator):
            rest = [other for other in view.values(name) if other != value]
            sign = "is not" if name.startswith("not.") else "is"
            shown = (names or {}).get(dimension, {}).get(value) or value_name(value, dimension)
            label = f"{dimension_name(dimension)} {sign} {shown}"
            found.append(Filtered(label, view.href({name: rest or None, "cursor": None})))
    return found


def filtered_by(view: View, principal: Principal) -> set[str]:
    """The names of all filters that are set, as the address has them."""
    return {name for name, _ in view.items if is_dimension(name.removeprefix("not."), principal.is_operator)}


def pickable(view: View, principal: Principal, scope: str) -> list[Link]:
    """What one may filter by, each with the address that opens its values."""
    return [
        Link(dimension_name(name), view.href({"pick": name, "find": None})) for name in dimensions(principal, scope)
    ]


def picker(view: View, dimension: str, answer: UsageAnswer, search: str) -> Picker:
    """The values of a dimension in the view without its own filter: the most credits first, those that match."""
    chosen, unwanted = view.values(dimension), view.values(f"not.{dimension}")
    requests = {one.key[dimension]: one for one in answer.series if one.metric == "requests"}
    values = [value for value in requests if value != OTHER]
    values += [value for value in (*chosen, *unwanted) if value not in requests]
    choices = [
        Choice(
            value,
            series_name(requests[value]) if value in requests else value_name(value, dimension),
            written(requests[value].total if value in requests else 0, "requests"),
            value in chosen or value in unwanted,
        )
        for value in values
    ]
    matching = [one for one in choices if search.casefold() in f"{one.label}\n{one.value}".casefold()]
    own = (dimension, f"not.{dimension}", "pick", "find", "cursor")
    return Picker(
        dimension=dimension,
        label=dimension_name(dimension),
        search=search,
        negated=bool(unwanted) and not chosen,
        choices=matching[:MOST_CHOICES],
        left_out=max(0, len(matching) - MOST_CHOICES) + (OTHER in requests),
        carried=tuple(item for item in view.items if item[0] not in own),
        kept=tuple((f"{PICK}value", one.value) for one in choices if one.chosen and one not in matching),
    )


def carried(view: View, controls: Iterable[str]) -> Items:
    """What the form must bring along unchanged, because no control of it holds it: filters above all."""
    held = set(controls)
    return tuple(item for item in view.items if item[0] not in held)


def is_cumulable(metric: str) -> bool:
    return metric.startswith("quantity.") or (metric in METRICS and is_additive(metric))
