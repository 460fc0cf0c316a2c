"""ElevenLabs' two tables, credits over time and the Request Log: a body in, a question; its answer in, a table. Pure.

A table is columns, their types and units, and rows of numbers, texts and nulls only: their JavaScript SDK refuses
anything else. Display names stand behind all other columns, since clients go by position.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from aggregator.buckets import from_us
from aggregator.dimensions import Condition, Filter
from aggregator.elevenlabs.filters import Operation, condition
from aggregator.elevenlabs.terms import (
    AUDIO_SECONDS,
    COLUMNS,
    LABEL_COLUMNS,
    MAX_STEP_SECONDS,
    MAX_TIME_MS,
    MIN_TIME_MS,
    SECONDS_PER_MINUTE,
    dimension_of,
    end_us,
    step_of,
    unknown,
)
from aggregator.errors import Problem, QueryError
from aggregator.parameters import MAX_TOP, MAX_VALUES, zone_of
from aggregator.query import MAX_BUCKETS, UsageAnswer, UsageQuery
from aggregator.request_log import MAX_LIMIT, RequestsQuery
from aggregator.tokens import Principal

MAX_GROUPING = 8  # columns: each multiplies the rows
MAX_FILTERS = 50
MAX_TEXT = 4096  # characters of a value: no recorded one is longer
MAX_CELLS = 5_000_000  # buckets times groups, so that an answer fits into memory
DEFAULT_LIMIT = 100
DEFAULT_STEP_SECONDS = 60
DEFAULT_GROUPING = ("product_type",)  # as in their example, and as the endpoint is called

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Milliseconds = Annotated[int, Field(strict=True, ge=0, le=MAX_TIME_MS)]
Since2020 = Annotated[int, Field(strict=True, ge=MIN_TIME_MS, le=MAX_TIME_MS)]
Cell = str | int | float | Decimal | bool | None


class _Body(BaseModel):
    """A null is an argument that was left out: their SDK sends it where None was given."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ColumnFilter(_Body):
    column: Annotated[Name, Field(description=f"{', '.join(COLUMNS)}, a dimension, or a fact of a call")]
    operation: Operation
    values: Annotated[list[Text | bool | int | float | None], Field(min_length=1, max_length=MAX_VALUES)]


class UsageBody(_Body):
    """Of `POST /v1/workspace/analytics/query/usage-by-product-over-time`."""

    start_time: Annotated[Since2020, Field(description="Inclusive, Unix milliseconds.")]
    end_time: Annotated[
        Since2020, Field(description="Exclusive, Unix milliseconds; in the 59th second of a minute it means all of it.")
    ]
    interval_seconds: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=MAX_STEP_SECONDS)] | None,
        Field(description=f"Size of the buckets; default {DEFAULT_STEP_SECONDS}."),
    ] = None
    group_by: Annotated[
        list[Name] | None,
        Field(max_length=MAX_GROUPING, description=f"{', '.join(COLUMNS)}, or a dimension; default product_type."),
    ] = None
    filters: Annotated[list[ColumnFilter] | None, Field(max_length=MAX_FILTERS, description="All must hold.")] = None
    time_zone: Annotated[Name | None, Field(description="IANA name; moves buckets of whole hours and days.")] = None


class RequestsBody(_Body):
    """Of `POST /v1/workspace/analytics/requests`; at least one of the times must be given."""

    start_time: Annotated[Milliseconds | None, Field(description="Inclusive, Unix milliseconds.")] = None
    end_time: Annotated[Milliseconds | None, Field(description="Inclusive, Unix milliseconds.")] = None
    limit: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=MAX_LIMIT)] | None,
        Field(description=f"Rows; default {DEFAULT_LIMIT}."),
    ] = None
    sort: Annotated[
        Literal["asc", "desc"] | None, Field(description="By time; default desc where end_time is given, else asc.")
    ] = None
    filters: Annotated[list[ColumnFilter] | None, Field(max_length=MAX_FILTERS, description="All must hold.")] = None
    search: Annotated[Text | None, Field(description="Part of a request id, a trace id, a path or an error.")] = None


Body = TypeVar("Body", UsageBody, RequestsBody)


def parsed(model: type[Body], body: bytes) -> Body:
    """Raises QueryError with every fault, each with its place in the body."""
    try:
        return model.model_validate_json(body or b"{}")
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise QueryError([_fault(one["msg"], *one["loc"], type=one["type"]) for one in found]) from None


def _fault(message: str, *location: str | int, type: str = "value_error") -> Problem:
    return Problem(str(location[-1]) if location else "body", message, type, ("body", *location))


START_TIME = _fault("", "start_time")
"""The place of a fault of the range's start."""


@dataclass(frozen=True, slots=True)
class UsageTable:
    """A question whose answer becomes rows of `columns`, each a dimension under the name that was asked for."""

    query: UsageQuery
    columns: tuple[str, ...]


def usage_table(body: UsageBody, principal: Principal) -> UsageTable:
    """The question of such a body. Raises QueryError with every fault, and ForbiddenError."""
    problems: list[Problem] = []
    zone_name = body.time_zone or "UTC"
    zone = zone_of(zone_name)
    if zone is None:
        problems.append(_fault("must be an IANA name such as Europe/Berlin", "time_zone"))
    until_us = end_us(body.end_time)
    if body.start_time * 1000 >= until_us:
        problems.append(_fault("is not after start_time", "end_time"))
    columns = tuple(dict.fromkeys(DEFAULT_GROUPING if body.group_by is None else body.group_by))
    breakdown = [dimension_of(name, principal.is_operator) for name in columns]
    for position, (name, dimension) in enumerate(zip(columns, breakdown, strict=True)):
        if dimension is None:
            problems.append(_fault(unknown(name), "group_by", position))
        elif dimension in breakdown[:position]:
            problems.append(_fault(f"'{name}' is grouped by already, under another name", "group_by", position))
    filters = _conditions(body.filters, principal, problems, columns)
    if problems:
        raise QueryError(problems)
    interval, step = step_of(body.interval_seconds or DEFAULT_STEP_SECONDS)
    query = UsageQuery(
        start_us=body.start_time * 1000,
        end_us=until_us,
        zone=zone or UTC,
        zone_name=zone_name,
        interval=interval,
        metrics=("credits", "requests", AUDIO_SECONDS),
        breakdown=tuple(name for name in breakdown if name is not None),
        filters=filters,
        audience=principal.widest_audience(),
        top=MAX_TOP,
        step_seconds=step,
    )
    return UsageTable(capped(query, _fault("", "interval_seconds")), columns)


def capped(query: UsageQuery, problem: Problem) -> UsageQuery:
    """The question with as many series as fit beside its buckets. Raises QueryError for too many buckets."""
    buckets = len(query.bounds())
    if buckets > MAX_BUCKETS:
        message = f"makes more than {MAX_BUCKETS} buckets of this range: take larger ones"
        raise QueryError([replace(problem, message=message)])
    return replace(query, top=min(query.top, MAX_CELLS // buckets))


def requests_table(body: RequestsBody, principal: Principal, now_us: int) -> RequestsQuery:
    """The question of such a body. Raises QueryError with every fault, and ForbiddenError.

    Both ends include their millisecond: clients page by the time of the last row, and skip the rows that they know.
    """
    problems: list[Problem] = []
    if body.start_time is None and body.end_time is None:
        problems.append(_fault("at least one of start_time and end_time must be given"))
    start_us = (body.start_time or 0) * 1000
    end_us = now_us if body.end_time is None else (body.end_time + 1) * 1000
    if body.end_time is not None and start_us >= end_us:
        problems.append(_fault("is before start_time", "end_time"))
    filters = _conditions(body.filters, principal, problems)
    if problems:
        raise QueryError(problems)
    order = body.sort or ("asc" if body.end_time is None else "desc")
    return RequestsQuery(
        start_us=start_us,
        end_us=end_us,
        filters=filters,
        audience=principal.widest_audience(),
        text=body.search or "",
        limit=body.limit or DEFAULT_LIMIT,
        descending=order == "desc",
    )


def _conditions(
    filters: Sequence[ColumnFilter] | None,
    principal: Principal,
    problems: list[Problem],
    columns: Sequence[str] = (),
) -> tuple[Condition, ...]:
    """The filters' conditions, and that it be a request, unless they or the columns tell the kinds apart."""
    found: list[Condition] = []
    for position, one in enumerate(filters or ()):
        try:
            found.append(condition(one.column, one.operation, one.values, principal.is_operator))
        except ValueError as error:
            problems.append(_fault(f"{one.column[:60]}: {error}", "filters", position))
    if "kind" not in columns and not any(one.dimension == "kind" for one in found):
        found.append(Filter("kind", ("request",)))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: Literal["String", "Float", "Int", "DateTime", "Bool"] = "String"
    unit: Literal["ms", "min", "credits"] | None = None


_MEASURES = (
    _Column("usage_count", "Int"),
    _Column("total_minutes", "Float", "min"),
    _Column("total_cost", "Float"),  # null: no prices are kept here, but clients know a column by its place
    _Column("total_usage", "Float", "credits"),
)
_LOG = (
    _Column("request_id"), _Column("timestamp", "DateTime"), _Column("method"), _Column("endpoint"), _Column("path"),
    _Column("status_code", "Int"), _Column("success", "Bool"), _Column("response_time_ms", "Int", "ms"),
    _Column("ttfb_ms", "Int", "ms"), _Column("product_type"), _Column("model"), _Column("voice_id"),
    _Column("user_id"), _Column("hashed_xi_api_key"), _Column("region"), _Column("request_source"),
    _Column("credits", "Float", "credits"), _Column("error_code"), _Column("trace_id"),
)  # fmt: skip


def usage_document(table: UsageTable, answer: UsageAnswer) -> dict[str, Any]:
    """A row for each bucket and group in which calls began; all beyond the groups that fit is one, `__other__`."""
    dimensions = answer.query.breakdown
    labelled = [dimension for dimension in dimensions if dimension in LABEL_COLUMNS]
    columns = [_Column("timestamp", "DateTime"), *map(_Column, table.columns), *_MEASURES]
    columns += [_Column(LABEL_COLUMNS[dimension]) for dimension in labelled]
    return _document(columns, _usage_rows(answer, labelled))


def _usage_rows(answer: UsageAnswer, labelled: Sequence[str]) -> Iterator[list[Cell]]:
    series = {(one.metric, tuple(one.key.values())): one for one in answer.series}
    groups = [one for one in answer.series if one.metric == "credits"]
    for i, bound in enumerate(answer.bounds):
        for credits in groups:
            key = tuple(credits.key.values())
            count = series["requests", key].values[i]
            if not count:
                continue
            minutes = float(series[AUDIO_SECONDS, key].values[i] or 0) / SECONDS_PER_MINUTE
            names = [credits.names.get(dimension) or credits.key[dimension] or None for dimension in labelled]
            texts = [value or None for value in key]
            yield [_time(bound), *texts, count, minutes, None, credits.values[i], *names]


def requests_document(records: Sequence[Mapping[str, Any]], names: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """A row for each call, with display names from `names` (dimension → value → label)."""
    labels = [_Column(name) for name in LABEL_COLUMNS.values()]
    return _document([*_LOG, *labels], (_log_row(one, names) for one in records))


def _log_row(record: Mapping[str, Any], names: Mapping[str, Mapping[str, str]]) -> list[Cell]:
    ttfb_ms = record["ttfb_ms"]
    return [
        record["request_id"] or record["id"],
        f"{record['time'][:-9]}Z",  # UTC; milliseconds, so that the time can be sent back as one
        record["method"] or None,
        record["route"] or record["path"] or None,
        record["path"] or None,
        record["status"],
        record["outcome"] == "ok",
        _whole(record["duration_ms"]),
        None if ttfb_ms is None else _whole(ttfb_ms),
        *(record[COLUMNS[name]] or None for name in _LOG_DIMENSIONS),
        record["credits"],
        record["error"] or None,
        record["trace_id"] or None,
        *(names.get(one, {}).get(record[one]) or record[one] or None for one in LABEL_COLUMNS),
    ]


_LOG_DIMENSIONS = tuple(one.name for one in _LOG if one.name in COLUMNS)


def _whole(milliseconds: float) -> int:
    """Rounded as the column's filter rounds: half up."""
    return (round(milliseconds * 1000) + 500) // 1000


def _time(micros: int) -> str:
    moment = from_us(micros)
    precision = "milliseconds" if micros % 1_000_000 else "seconds"
    return moment.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _document(columns: Sequence[_Column], rows: Iterable[list[Cell]]) -> dict[str, Any]:
    return {
        "columns": [one.name for one in columns],
        "column_types": [one.type for one in columns],
        "column_units": [one.unit for one in columns],
        "rows": list(rows),
    }
