"""ElevenLabs' character-stats: their query string as a question of ours, and its answer as their series. Pure.

It is `/v1/usage` under other names, so our filters and `tz` go through as they are: their SDK sends them with
`request_options={"additional_query_parameters": …}`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aggregator.buckets import from_us
from aggregator.dimensions import Filter, is_dimension
from aggregator.elevenlabs.tables import capped
from aggregator.elevenlabs.terms import (
    BREAKDOWNS,
    HAS_API_KEY,
    MAX_STEP_SECONDS,
    MAX_TIME_MS,
    METRICS,
    OF_THE_WORKSPACE,
    SECONDS_PER_MINUTE,
    end_us,
    step_of,
    why_absent,
)
from aggregator.errors import Problem, QueryError
from aggregator.measures import Number, is_metric
from aggregator.parameters import MAX_TOP, Items, QueryString, usage_query
from aggregator.query import Series, UsageAnswer, UsageQuery
from aggregator.tokens import Principal

THEIRS = (
    "start_unix", "end_unix", "include_workspace_metrics", "breakdown_type", "aggregation_interval",
    "aggregation_bucket_size", "metric",
)  # fmt: skip
START_UNIX = Problem("start_unix", "")
"""The place of a fault of the range's start."""

INTERVALS = ("hour", "day", "week", "month", "cumulative")
_OUR_INTERVALS = ("minute", "year", "total")
_OURS = ("start", "end", "last", "scope", "breakdown", "interval", "cumulative", "layout")
_NAMES = {"start": "start_unix", "end": "end_unix", "breakdown": "breakdown_type", "interval": "aggregation_interval"}
_NAMES |= {"cumulative": "aggregation_interval", "scope": "include_workspace_metrics"}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False, "": False}
_SECONDS_BELOW = 10**11  # as milliseconds this were 1973: guides that pass seconds are understood


@dataclass(frozen=True, slots=True)
class CharacterStats:
    """`queries` by the label of the one series that each becomes; `""`: every series has its own."""

    queries: Mapping[str, UsageQuery]
    per_minute: bool = False


@dataclass(frozen=True, slots=True)
class _Asked:
    start_ms: int
    end_ms: int
    workspace: bool
    breakdown: str
    interval: str
    step_seconds: int | None
    metric: str


def character_stats(items: Items, principal: Principal, now_us: int) -> CharacterStats:
    """The question of `GET /v1/usage/character-stats`. Raises QueryError with every fault, and ForbiddenError."""
    theirs = QueryString([item for item in items if item[0] in THEIRS])
    asked = _asked(theirs)
    rest = [(name, value) for name, value in items if name not in THEIRS]
    for name, _ in rest:
        if name in _OURS:
            theirs.wrong(name, "is not a parameter here: see /docs for those that are", "extra_forbidden")
    try:
        ours = [("top", str(MAX_TOP))] if all(name != "top" for name, _ in rest) else []
        ours += [item for item in rest if item[0] not in _OURS]
        query = usage_query([*_translated(asked), *ours], principal, now_us)
    except QueryError as error:
        raise QueryError([*theirs.problems, *map(_renamed, error.problems)]) from None
    theirs.finish()
    return _questions(asked, query)


def _asked(theirs: QueryString) -> _Asked:
    start, end = _moment(theirs, "start_unix"), _moment(theirs, "end_unix")
    if theirs.problems:
        end = start + 1000  # that one of them is wrong is said: not, beside it, that they do not fit
    workspace = _boolean(theirs, "include_workspace_metrics")
    breakdown = _known(theirs, "breakdown_type", (*BREAKDOWNS, HAS_API_KEY), lambda name: is_dimension(name, True))
    if breakdown in OF_THE_WORKSPACE and not workspace:
        theirs.wrong("breakdown_type", f"cannot be '{breakdown}' unless include_workspace_metrics is true")
    metric = _known(theirs, "metric", METRICS, is_metric)
    size = theirs.number("aggregation_bucket_size", 0, 1, MAX_STEP_SECONDS) if _given(theirs) else None
    interval = theirs.choice("aggregation_interval", (*INTERVALS, *_OUR_INTERVALS), "day")
    return _Asked(start, end, workspace, breakdown, interval, size or None, metric)


def _given(theirs: QueryString) -> bool:
    return any(name == "aggregation_bucket_size" and value for name, value in theirs.items)


def _moment(theirs: QueryString, name: str) -> int:
    """Unix milliseconds; a number too small for that is seconds."""
    if not any(one == name for one, _ in theirs.items):
        theirs.wrong(name, "Field required", "missing")
        return 0
    moment = theirs.number(name, 0, 0, MAX_TIME_MS)
    return moment * 1000 if moment < _SECONDS_BELOW else moment


def _boolean(theirs: QueryString, name: str) -> bool:
    text = theirs.one(name, "")
    if text.lower() not in _BOOLEANS:
        theirs.wrong(name, f"'{text[:60]}' is no boolean: must be true or false", "bool_parsing")
    return _BOOLEANS.get(text.lower(), False)


def _known(theirs: QueryString, name: str, names: Iterable[str], is_ours: Callable[[str], bool]) -> str:
    """One of their names or of ours; the first of theirs is the default."""
    known = tuple(names)
    value = theirs.one(name, known[0])
    if value in known or is_ours(value):
        return value
    theirs.wrong(name, why_absent(value) or f"'{value[:60]}' is unknown: must be one of {', '.join(known)}", "enum")
    return known[0]


def _translated(asked: _Asked) -> list[tuple[str, str]]:
    cumulative = asked.interval == "cumulative" and asked.step_seconds is None
    interval = "day" if asked.interval == "cumulative" else asked.interval
    breakdown = BREAKDOWNS.get(asked.breakdown, asked.breakdown)
    return [
        ("start", from_us(asked.start_ms * 1000).isoformat()),
        ("end", from_us(end_us(asked.end_ms)).isoformat()),
        ("interval", interval if asked.step_seconds is None else "total"),
        ("cumulative", "true" if cumulative else "false"),
        ("metric", METRICS.get(asked.metric, asked.metric)),
        ("scope", "workspace" if asked.workspace else "account"),
        ("breakdown", "" if breakdown == HAS_API_KEY else breakdown),
    ]


def _renamed(problem: Problem) -> Problem:
    return replace(problem, parameter=_NAMES.get(problem.parameter, problem.parameter))


def _questions(asked: _Asked, query: UsageQuery) -> CharacterStats:
    if asked.step_seconds is not None:
        interval, step = step_of(asked.step_seconds)
        query = replace(query, interval=interval, step_seconds=step)
    query = capped(query, Problem("aggregation_bucket_size", ""))
    per_minute = asked.metric == "minutes_used"
    if asked.breakdown != HAS_API_KEY:
        return CharacterStats({"": query}, per_minute)
    keyless = [replace(query, filters=(*query.filters, Filter("api_key", ("",), negated))) for negated in (True, False)]
    return CharacterStats(dict(zip(("true", "false"), keyless, strict=True)), per_minute)


def character_stats_document(asked: CharacterStats, answers: Mapping[str, UsageAnswer]) -> dict[str, Any]:
    """`time` in Unix milliseconds and, by label, a number for each; `answers` by the labels of the questions."""
    usage: dict[str, Sequence[Number]] = {}
    for label, answer in answers.items():
        for series in answer.series:
            usage[_free(label or series.label, series, usage)] = _numbers(series, asked.per_minute)
    bounds = next(iter(answers.values())).bounds
    return {"time": [bound // 1000 for bound in bounds], "usage": usage}


def _free(label: str, series: Series, taken: Mapping[str, object]) -> str:
    """The label, with the identifier behind it where another series has the same name already."""
    while label in taken:
        label = f"{label} ({', '.join(series.key.values())})"
    return label


def _numbers(series: Series, per_minute: bool) -> list[Number]:
    """Their clients take nothing but numbers: where there is none, 0."""
    values = [0 if value is None else value for value in series.values]
    return [float(value) / SECONDS_PER_MINUTE for value in values] if per_minute else values
