"""From a query string to a validated question. Pure; collects every fault instead of stopping at the first.

An unknown parameter is a fault too: a misspelt filter that is ignored is a wrong number that nobody notices.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from aggregator.buckets import INTERVALS, Interval, floor_us, from_us, midnight_us, to_us
from aggregator.cubes import PEAK_DIMENSIONS
from aggregator.dimensions import (
    ATTRIBUTE,
    DIMENSIONS,
    OPERATOR_DIMENSIONS,
    QUANTITY,
    Filter,
    filter_problem,
    is_dimension,
)
from aggregator.errors import Problem, QueryError
from aggregator.measures import METRICS, is_additive, is_metric
from aggregator.plan import CALLS_DAYS, is_too_long
from aggregator.query import MAX_BUCKETS, UsageQuery
from aggregator.request_log import MAX_LIMIT, Cursor, RequestsQuery
from aggregator.tokens import Principal, Scope
from usage_meter.event import MAX_TIME_US

MAX_BREAKDOWN = 2  # a chart has one colour axis; two dimensions are a table
MAX_TOP = 1000  # series in one answer
MAX_METRICS = 20
MAX_VALUES = 1000  # of one filter: a longer list is a join, not a filter
DEFAULT_RANGE = "30d"
COMPARISONS = ("none", "previous")

USAGE_PARAMETERS = ("metric", "interval", "breakdown", "cumulative", "compare", "top", "layout")
LAYOUTS = ("long", "wide")
RANGE_PARAMETERS = ("start", "end", "last", "tz", "scope")
LOG_PARAMETERS = ("q", "min_latency", "limit", "cursor", "order")

_LAST = re.compile(r"(\d{1,6})(m|h|d|w|mo|y)")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_SPACE_FOR_PLUS = re.compile(r" (\d\d:?\d\d)$")  # an unescaped + of an offset arrives as a space
_UNIX = re.compile(r"-?\d+(\.\d+)?")
_SECONDS_BELOW = 10**11  # as milliseconds this were 1973: older than any call, so a smaller number is seconds

Items = Sequence[tuple[str, str]]


@dataclass
class QueryString:
    """The items of one query string, taken one name at a time; what nobody took is unknown."""

    items: Items
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._values: dict[str, list[str]] = {}
        for name, value in self.items:
            self._values.setdefault(name, []).append(value)

    def all(self, name: str) -> list[str]:
        return self._values.pop(name, [])

    def one(self, name: str, default: str) -> str:
        values = self.all(name)
        if len(values) > 1:
            self.wrong(name, f"is given {len(values)} times: must be given once")
        return values[0] if values and values[0] != "" else default

    def choice(self, name: str, allowed: Sequence[str], default: str) -> str:
        value = self.one(name, default)
        if value not in allowed:
            self.wrong(name, f"'{value}' is unknown: must be one of {', '.join(allowed)}", "enum")
            return default
        return value

    def number(self, name: str, default: int, low: int, high: int) -> int:
        text = self.one(name, str(default))
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not low <= int(text) <= high:
            self.wrong(name, f"'{text}' is out of range: must be a whole number from {low} to {high}", "int_parsing")
            return default
        return int(text)

    def wrong(self, name: str, message: str, type: str = "value_error") -> None:
        self.problems.append(Problem(name, message, type))

    def names(self) -> Iterable[str]:
        return list(self._values)

    def finish(self) -> None:
        for name in self._values:
            self.wrong(name, "is not a parameter here: see /docs for those that are", "extra_forbidden")
        if self.problems:
            raise QueryError(self.problems)


@dataclass(frozen=True, slots=True)
class _Range:
    start_us: int
    end_us: int
    zone: tzinfo
    zone_name: str


def usage_query(items: Items, principal: Principal, now_us: int) -> UsageQuery:
    """The question of `/v1/usage`. Raises QueryError with every fault, and ForbiddenError."""
    parameters = QueryString(items)
    parameters.choice("layout", LAYOUTS, "long")  # of the CSV; export.py's
    interval = _interval(parameters)
    span = _range(parameters, interval, now_us)
    metrics = _metrics(parameters)
    breakdown = _breakdown(parameters, principal)
    cumulative = parameters.choice("cumulative", ("true", "false"), "false") == "true"
    if cumulative:
        for name in metrics:
            if not is_additive(name):
                parameters.wrong("cumulative", f"'{name}' does not add up over time: cumulative takes {_additive()}")
    compare = parameters.choice("compare", COMPARISONS, "none") == "previous"
    top = parameters.number("top", 20, 1, MAX_TOP)
    filters, scope = _filters(parameters, principal, breakdown), _scope(parameters)
    query = UsageQuery(
        start_us=span.start_us,
        end_us=span.end_us,
        zone=span.zone,
        zone_name=span.zone_name,
        interval=interval,
        cumulative=cumulative,
        metrics=metrics,
        breakdown=breakdown,
        filters=filters,
        audience=principal.audience(scope),
        top=top,
        compare=compare,
    )
    _check_concurrency(parameters, query)
    if not parameters.problems and len(query.bounds()) > MAX_BUCKETS:
        parameters.wrong(
            "interval", f"'{interval}' makes more than {MAX_BUCKETS} buckets of this range: take a longer one"
        )
    parameters.finish()
    return query


def _check_concurrency(parameters: QueryString, query: UsageQuery) -> None:
    if is_too_long(query):
        parameters.wrong(
            "metric",
            f"concurrency over more than {CALLS_DAYS} days is kept of a workspace and of each of its "
            f"{', '.join(PEAK_DIMENSIONS)}: ask for one of these, without another filter, or for a shorter range",
        )


def requests_query(items: Items, principal: Principal, now_us: int) -> RequestsQuery:
    """The question of `/v1/requests`. Raises QueryError with every fault, and ForbiddenError."""
    parameters = QueryString(items)
    span = _range(parameters, "total", now_us)
    order = parameters.choice("order", ("desc", "asc"), "desc")
    limit = parameters.number("limit", 100, 1, MAX_LIMIT)
    cursor_text = parameters.one("cursor", "")
    cursor = Cursor.parse(cursor_text) if cursor_text else None
    if cursor_text and cursor is None:
        parameters.wrong("cursor", "is not one that an earlier answer gave as next_cursor")
    text = parameters.one("q", "")
    min_latency_us = _latency(parameters)
    filters, scope = _filters(parameters, principal, ()), _scope(parameters)
    parameters.finish()
    return RequestsQuery(
        start_us=span.start_us,
        end_us=span.end_us,
        zone=span.zone,
        filters=filters,
        audience=principal.audience(scope),
        text=text,
        min_latency_us=min_latency_us,
        limit=limit,
        cursor=cursor,
        descending=order == "desc",
    )


def _interval(parameters: QueryString) -> Interval:
    value = parameters.one("interval", "day")
    for interval in INTERVALS:
        if value == interval:
            return interval
    parameters.wrong("interval", f"'{value}' is unknown: must be one of {', '.join(INTERVALS)}", "enum")
    return "total"


def _scope(parameters: QueryString) -> Scope:
    return "workspace" if parameters.choice("scope", ("account", "workspace"), "account") == "workspace" else "account"


def _metrics(parameters: QueryString) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(parameters.all("metric"))) or ("credits",)
    for name in names:
        if not is_metric(name):
            parameters.wrong(
                "metric", f"'{name}' is unknown: must be one of {', '.join(METRICS)}, or {QUANTITY}NAME", "enum"
            )
    if len(names) > MAX_METRICS:
        parameters.wrong("metric", f"is given {len(names)} times: at most {MAX_METRICS}")
    return tuple(name for name in names if is_metric(name))[:MAX_METRICS] or ("credits",)


def _breakdown(parameters: QueryString, principal: Principal) -> tuple[str, ...]:
    names = tuple(name for name in dict.fromkeys(parameters.all("breakdown")) if name not in ("", "none"))
    for name in names:
        if not is_dimension(name, principal.is_operator):
            parameters.wrong("breakdown", f"'{name}' is unknown: must be one of {_dimensions(principal)}", "enum")
    if len(names) > MAX_BREAKDOWN:
        parameters.wrong("breakdown", f"is given {len(names)} times: at most {MAX_BREAKDOWN}")
    return tuple(name for name in names if is_dimension(name, principal.is_operator))[:MAX_BREAKDOWN]


def _filters(parameters: QueryString, principal: Principal, breakdown: tuple[str, ...]) -> tuple[Filter, ...]:
    filters = []
    for parameter in parameters.names():
        negated = parameter.startswith("not.")
        dimension = parameter.removeprefix("not.")
        if not is_dimension(dimension, principal.is_operator):
            continue
        values = tuple(dict.fromkeys(parameters.all(parameter)))
        problem = filter_problem(dimension, values, parameter)
        if problem:
            parameters.problems.append(problem)
        elif len(values) > MAX_VALUES:
            parameters.wrong(parameter, f"has {len(values)} values: at most {MAX_VALUES}")
        else:
            filters.append(Filter(dimension, values, negated))
    if "kind" not in breakdown and not any(one.dimension == "kind" for one in filters):
        filters.append(Filter("kind", ("request",)))
    return tuple(filters)


def _latency(parameters: QueryString) -> int | None:
    """`min_latency` is milliseconds."""
    text = parameters.one("min_latency", "")
    if not text:
        return None
    if not re.fullmatch(r"\d{1,12}(\.\d{1,6})?", text, re.ASCII):
        parameters.wrong("min_latency", f"'{text}' is no latency: must be milliseconds, such as 250", "float_parsing")
        return None
    return round(float(text) * 1000)


def _range(parameters: QueryString, interval: Interval, now_us: int) -> _Range:
    zone_name = parameters.one("tz", "UTC")
    zone = zone_of(zone_name)
    if zone is None:
        parameters.wrong("tz", f"'{zone_name[:60]}' is no time zone: must be an IANA name such as Europe/Berlin")
        zone = UTC
    start_text, end_text = parameters.one("start", ""), parameters.one("end", "")
    last = parameters.one("last", "" if start_text else DEFAULT_RANGE)
    end_us = _instant(parameters, "end", end_text, zone, upper=True) if end_text else now_us
    if start_text and last:
        parameters.wrong("last", "cannot stand beside start: give one of them")
    start_us = (
        _instant(parameters, "start", start_text, zone)
        if start_text
        else _back(parameters, last, end_us, interval, zone)
    )
    if start_us >= end_us and not parameters.problems:
        parameters.wrong(
            "end", f"{from_us(end_us, zone).isoformat()} is not after start {from_us(start_us, zone).isoformat()}"
        )
    return _Range(start_us, end_us, zone, zone_name)


def zone_of(name: str) -> tzinfo | None:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; a path that leaves the tables; a directory or an overlong name
        return None


def _back(parameters: QueryString, last: str, end_us: int, interval: Interval, zone: tzinfo) -> int:
    """`last` before the end, back to where its bucket begins, so that the first bucket is a whole one."""
    match = _LAST.fullmatch(last)
    if not match:
        parameters.wrong("last", f"'{last}' is no span: must be such as 24h, 7d, 30d or 12mo")
        return 0
    count, unit = int(match[1]), match[2]
    end = from_us(end_us, zone)
    try:
        if unit in _UNITS:
            start = end - count * _UNITS[unit] if unit in "dw" else (end.astimezone(UTC) - count * _UNITS[unit])
        else:
            start = _months_back(end, count * (12 if unit == "y" else 1))
        return max(0, floor_us(to_us(start), interval, zone))
    except (OverflowError, ValueError):
        parameters.wrong("last", f"'{last}' reaches back before the calendar begins")
        return 0


def _months_back(moment: datetime, months: int) -> datetime:
    index = moment.year * 12 + moment.month - 1 - months
    year, month = divmod(index, 12)
    last_day = (date(year + (month == 11), (month + 1) % 12 + 1, 1) - timedelta(days=1)).day
    return moment.replace(year=year, month=month + 1, day=min(moment.day, last_day))


def _instant(parameters: QueryString, name: str, text: str, zone: tzinfo, *, upper: bool = False) -> int:
    """A date, a date-time or a Unix time as UTC microseconds; a bare end date includes that day."""
    try:
        instant = _parsed(text, zone, upper=upper)
    except (ValueError, OverflowError):
        parameters.wrong(
            name,
            f"'{text[:60]}' is no time: must be such as 2026-01-31, 2026-01-31T12:00:00+01:00, or Unix (milli)seconds",
        )
        return 0
    if not 0 <= instant <= MAX_TIME_US:
        parameters.wrong(name, f"'{text[:60]}' is out of range: must lie between 1970 and 2200")
        return 0
    return instant


def _parsed(text: str, zone: tzinfo, *, upper: bool) -> int:
    if _UNIX.fullmatch(text) and not re.fullmatch(r"\d{8}", text):  # eight digits are a date without its hyphens
        number = float(text) if "." in text else int(text)
        return round(number * (1_000_000 if abs(number) < _SECONDS_BELOW else 1000))
    if len(text) <= 10:
        day = date.fromisoformat(text)
        return midnight_us(day + timedelta(days=1) if upper else day, zone)
    moment = datetime.fromisoformat(_SPACE_FOR_PLUS.sub(r"+\1", text) if "T" in text else text)
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=zone))


def _dimensions(principal: Principal) -> str:
    names = (*DIMENSIONS, *OPERATOR_DIMENSIONS) if principal.is_operator else DIMENSIONS
    return f"{', '.join(names)}, or {ATTRIBUTE}NAME"


def _additive() -> str:
    return ", ".join(name for name in METRICS if is_additive(name)) + f" and {QUANTITY}NAME"
