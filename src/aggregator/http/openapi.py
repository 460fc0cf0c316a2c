"""What `/openapi.json` says of every endpoint, from the same tables that the answers come from. Pure.

Filters are any dimension by name, so the parameters are made from the allow-lists instead of from signatures.
"""

from aggregator.buckets import INTERVALS
from aggregator.dimensions import DIMENSIONS
from aggregator.formats import ARROW, CSV, FORMATS, PARQUET
from aggregator.http import schemas
from aggregator.http.body import MAX_BYTES
from aggregator.http.schemas import TEXT, TEXTS, Schema
from aggregator.ingest import CLOUD_EVENT, CLOUD_EVENTS, JSON, LINES
from aggregator.measures import METRICS
from aggregator.parameters import COMPARISONS, DEFAULT_RANGE, LAYOUTS, MAX_TOP
from aggregator.request_log import MAX_LIMIT


def parameter(name: str, description: str, schema: Schema, example: object = None) -> Schema:
    shown = {} if example is None else {"example": example}
    return {
        "name": name, "in": "query", "required": False, "description": description, "schema": schema, **shown,
    }  # fmt: skip


def choice(values: tuple[str, ...], default: str) -> Schema:
    return {"type": "string", "enum": list(values), "default": default}


_TIME = "ISO 8601 date or date-time, or Unix seconds or milliseconds; a bare date is local midnight in `tz`."
_ZONE: Schema = {"type": "string", "default": "UTC"}

_RANGE = [
    parameter("start", f"Inclusive. {_TIME}", TEXT, "2026-01-01"),
    parameter("end", f"Exclusive; a bare date includes that day; default now. {_TIME}", TEXT, "2026-01-03"),
    parameter("last", f"Instead of `start`: `24h`, `7d`, `{DEFAULT_RANGE}` (the default), `12mo`.", TEXT),
    parameter("tz", "IANA time zone of the buckets and of local times.", _ZONE, "Europe/Berlin"),
    parameter("scope", "The caller's own calls, or all of the workspace.", choice(("account", "workspace"), "account")),
]
_ITEMS = {"status": schemas.STATUS, "outcome": schemas.OUTCOME, "kind": schemas.KIND}
FILTERS = [
    parameter(
        name,
        f"Only calls with this {name}; repeat for several. `not.{name}` excludes.",
        {"type": "array", "items": _ITEMS[name], "minItems": 1} if name in _ITEMS else TEXTS,
    )
    for name in DIMENSIONS
]
_LIMITED: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_TOP}

_USAGE_PARAMETERS = [
    parameter("metric", f"{', '.join(METRICS)}, or `quantity.NAME`; repeatable; default credits.", TEXTS, ["credits"]),
    parameter("interval", "Size of the buckets, by the calendar of `tz`.", choice(tuple(INTERVALS), "day"), "day"),
    parameter("breakdown", "Up to two dimensions, or `attribute.NAME`: one series per value.", TEXTS, ["voice"]),
    parameter("cumulative", "Running sums over the range.", choice(("true", "false"), "false"), "false"),
    parameter(
        "compare",
        "`previous`: the period before beside it, with the same series. Not in files.",
        choice(COMPARISONS, "none"),
        "none",
    ),
    parameter("top", "Series to show; all others are one, `__other__`.", {**_LIMITED, "default": 20}),
    *_RANGE,
    *FILTERS,
]
_LAYOUT = parameter("layout", "Of the CSV: a row per bucket and key, or a column per series.", choice(LAYOUTS, "long"))
_SEARCH_PARAMETERS = [
    parameter("q", "Free text: event id, request id, trace id, part of path or error.", TEXT),
    parameter("min_latency", "Only calls that took at least so many milliseconds.", {"type": "number", "minimum": 0}),
    parameter("order", "By start.", choice(("desc", "asc"), "desc")),
    *_RANGE,
    *FILTERS,
]
_PAGE_PARAMETERS = [
    parameter("limit", "Calls per page.", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100}),
    parameter("cursor", "`next_cursor` of the page before.", TEXT),
]
WORKSPACE = parameter("workspace", "An operator's: whose; other tokens say it themselves.", TEXT, "acme")
_DIMENSION: Schema = {
    "name": "dimension",
    "in": "path",
    "required": True,
    "schema": schemas.DIMENSION,
    "example": "voice",
}

_STATUSES = {
    400: ("invalid_request", "bad_request"),
    401: ("authentication_error", "invalid_api_key"),
    403: ("authorization_error", "insufficient_permissions"),
    404: ("not_found", "request_not_found"),
    413: ("invalid_request", "request_too_large"),
    415: ("invalid_request", "invalid_content_type"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("service_unavailable", "system_busy"),
}
"""The errors that are one object, with the type and the code that each usually has."""


def _error(status: int, description: str) -> Schema:
    type, code = _STATUSES[status]
    detail = {
        "type": type, "code": code, "message": description, "status": code,
        "request_id": "3c807fc4c3a1705f9638ecc764a91c01", "param": None,
    }  # fmt: skip
    schema = schemas.example(schemas.ERROR, {"detail": detail})
    answer: Schema = {"description": description, "content": {JSON: {"schema": schema}}}
    if status == 429:
        answer["headers"] = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    return answer


_EVERY: dict[int | str, Schema] = {
    401: _error(401, "No token, or not a valid one."),
    403: _error(403, "The token does not allow this."),
    422: {
        "description": "The question is malformed; every fault is named.",
        "content": {JSON: {"schema": schemas.PROBLEMS}},
    },
    429: _error(429, "Too many tokens were refused."),
    503: _error(503, "Redis or the store cannot be reached, or is busy."),
}
_MISSING: dict[int | str, Schema] = {404: _error(404, "There is no such thing here.")}
_BODY: dict[int | str, Schema] = {
    400: _error(400, "The body is not what its Content-Encoding says."),
    413: _error(413, f"The body is larger than {MAX_BYTES} bytes, unpacked."),
    415: _error(415, "A Content-Type or Content-Encoding that is not taken; the message says which are."),
}
_KEPT: Schema = {
    "ETag": {"description": "Where the range is complete: for If-None-Match.", "schema": TEXT},
    "Cache-Control": {"description": "`private, no-cache` where the range is complete, else no-store.", "schema": TEXT},
}


def operation(
    description: str,
    content: Schema,
    *parameters: Schema,
    body: Schema | None = None,
    status: int = 200,
    missing: bool = False,
) -> Schema:
    """An endpoint's keyword arguments: its answers, parameters and body, the latter two as media types of schemas."""
    answers: dict[int | str, Schema] = {status: {"description": description, "content": content}, **_EVERY}
    if missing:
        answers |= _MISSING
    extra: Schema = {"parameters": list(parameters)}
    if body:
        answers |= _BODY
        extra["requestBody"] = {"required": True, "content": body}
    return {"responses": answers, "openapi_extra": extra}


def json(schema: Schema) -> Schema:
    return {JSON: {"schema": schema}}


_BINARY: Schema = {"type": "string", "format": "binary"}


def _files(csv: Schema, packed: bool) -> Schema:
    found: Schema = {"text/csv": {"schema": csv}}
    if packed:
        found |= {one.media_type: {"schema": _BINARY} for one in (PARQUET, ARROW)}
    return found


def _content(suffix: str, schema: Schema, csv: Schema, packed: bool = True) -> Schema:
    """What a path with that suffix answers with; without one, it is `Accept` that says."""
    files = _files(csv, packed)
    if suffix:
        media_type = FORMATS[suffix.removeprefix(".")].media_type.partition(";")[0]
        return {media_type: files[media_type]}
    return json(schema) | files


def usage(suffix: str) -> Schema:
    layout = [_LAYOUT] if suffix in ("", f".{CSV.suffix}") else []
    content = _content(suffix, schemas.USAGE, schemas.USAGE_CSV)
    made = operation("The series.", content, *_USAGE_PARAMETERS, *layout)
    made["responses"][200]["headers"] = _KEPT
    made["responses"][304] = {"description": "What `If-None-Match` names still holds.", "headers": _KEPT}
    return made


def requests(suffix: str) -> Schema:
    paged = [] if suffix else _PAGE_PARAMETERS
    content = _content(suffix, schemas.REQUESTS, schemas.REQUESTS_CSV)
    return operation(
        "A page of calls; as a file, all. Those of the range that are still kept: 422 where none can be.",
        content,
        *_SEARCH_PARAMETERS,
        *paged,
    )


def values(suffix: str) -> Schema:
    return operation(
        "The values, the most credits first.",
        _content(suffix, schemas.VALUES, TEXT, packed=False),
        _DIMENSION,
        parameter("q", "Only values whose label or identifier contains this.", TEXT),
        parameter("limit", "Values to look at.", {**_LIMITED, "default": 100}),
        *_RANGE,
        *FILTERS,
        missing=True,
    )


def labels(suffix: str) -> Schema:
    content = _content(suffix, schemas.LABELS, TEXT, packed=False)
    return operation("The display names, by value.", content, _DIMENSION, WORKSPACE, missing=True)


def limits(suffix: str) -> Schema:
    content = _content(suffix, schemas.LIMITS, TEXT, packed=False)
    zone = parameter("tz", "The zone in which the month begins.", _ZONE)
    return operation("What is set, used and left.", content, WORKSPACE, zone)


def audit(suffix: str) -> Schema:
    return operation("The newest entries.", _content(suffix, schemas.AUDIT, TEXT, packed=False))


REQUEST = operation("The call.", json(schemas.REQUEST), missing=True)
EVENTS = operation(
    "All are safe in Redis.",
    json(schemas.ACCEPTED),
    body={
        **json(schemas.EVENTS),
        LINES[0]: {"schema": schemas.EVENT_LINES},
        CLOUD_EVENT: {"schema": schemas.CLOUD_EVENT},
        CLOUD_EVENTS: {"schema": schemas.CLOUD_EVENTS},
    },
    status=202,
)
PUT_LABELS = operation(
    "They are set.", json(schemas.LABELS), _DIMENSION, WORKSPACE, body=json(schemas.NAMES), missing=True
)
PUT_LIMITS = operation("They are set.", json(schemas.ACCEPTED), WORKSPACE, body=json(schemas.NEW_LIMITS))
REVOKE = operation("It is refused from now on.", json(schemas.REVOKED))
LIVE = operation("What happens now.", json(schemas.LIVE), WORKSPACE)
_STREAM: Schema = {"text/event-stream": {"schema": TEXT}}
LIVE_STREAM = operation("One event every two seconds, each what `/v1/live` answers.", _STREAM, WORKSPACE)
TAIL = operation(
    "One event per call.",
    _STREAM,
    *(one for one in _SEARCH_PARAMETERS if one["name"] in ("q", "min_latency", "tz", "scope")),
    *FILTERS,
)
METRICS_TEXT: Schema = {
    "responses": {200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": TEXT}}}}
}
HEALTH: Schema = {"responses": {200: {"description": "It answers.", "content": json(schemas.HEALTH)}}}
READINESS: Schema = {
    "responses": {
        200: {"description": "Redis and the store answer.", "content": json(schemas.READINESS)},
        503: {"description": "One of them does not: which.", "content": json(schemas.READINESS)},
    }
}
