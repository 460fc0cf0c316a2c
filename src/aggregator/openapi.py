"""What `/openapi.json` says of parameters and answers, from the same tables that the answers come from. Pure.

Filters are any dimension by name, so the parameters are made from the allow-lists instead of from signatures.
"""

from typing import Any

from aggregator.buckets import INTERVALS
from aggregator.dimensions import DIMENSIONS
from aggregator.measures import METRICS
from aggregator.parameters import DEFAULT_RANGE, MAX_TOP
from aggregator.request_log import MAX_LIMIT

Schema = dict[str, Any]


def _parameter(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _choice(values: tuple[str, ...], default: str) -> Schema:
    return {"type": "string", "enum": list(values), "default": default}


_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_TIME = "ISO 8601 date or date-time, or Unix seconds or milliseconds; a bare date is local midnight in `tz`."

_RANGE = [
    _parameter("start", f"Inclusive. {_TIME}", _TEXT),
    _parameter("end", f"Exclusive; a bare date includes that day; default now. {_TIME}", _TEXT),
    _parameter("last", f"Instead of `start`: `24h`, `7d`, `{DEFAULT_RANGE}` (the default), `12mo`.", _TEXT),
    _parameter("tz", "IANA time zone of the buckets and of local times.", {"type": "string", "default": "UTC"}),
    _parameter(
        "scope", "The caller's own calls, or all of the workspace.", _choice(("account", "workspace"), "account")
    ),
]
_FILTERS = [
    _parameter(name, f"Only calls with this {name}; repeat for several. `not.{name}` excludes.", _TEXTS)
    for name in DIMENSIONS
]

USAGE_PARAMETERS = [
    _parameter("metric", f"{', '.join(METRICS)}, or `quantity.NAME`; repeatable; default credits.", _TEXTS),
    _parameter("interval", "Size of the buckets, by the calendar of `tz`.", _choice(tuple(INTERVALS), "day")),
    _parameter("breakdown", "Up to two dimensions, or `attribute.NAME`: one series per value.", _TEXTS),
    _parameter("cumulative", "Running sums over the range.", _choice(("true", "false"), "false")),
    _parameter(
        "top",
        "Series to show; all others are one, `__other__`.",
        {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": 20},
    ),
    *_RANGE,
    *_FILTERS,
]
LAYOUT_PARAMETER = _parameter(
    "layout", "A row per bucket and key, or a column per series.", _choice(("long", "wide"), "long")
)
LOG_PARAMETERS = [
    _parameter("q", "Free text: event id, request id, trace id, part of path or error.", _TEXT),
    _parameter("min_latency", "Only calls that took at least so many milliseconds.", {"type": "number", "minimum": 0}),
    _parameter("limit", "Calls per page.", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100}),
    _parameter("cursor", "`next_cursor` of the page before.", _TEXT),
    _parameter("order", "By start.", _choice(("desc", "asc"), "desc")),
    *_RANGE,
    *_FILTERS,
]

_NUMBER: Schema = {"type": ["number", "null"]}
USAGE_SCHEMA: Schema = {
    "type": "object",
    "required": ["start", "end", "timezone", "interval", "metrics", "breakdown", "buckets", "series", "complete_until"],
    "properties": {
        "start": {"type": "string", "format": "date-time"},
        "end": {"type": "string", "format": "date-time"},
        "timezone": _TEXT,
        "interval": {"type": "string", "enum": list(INTERVALS)},
        "metrics": _TEXTS,
        "breakdown": _TEXTS,
        "buckets": {"type": "array", "items": {"type": "string", "format": "date-time"}},
        "series": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["metric", "key", "label", "values", "total"],
                "properties": {
                    "metric": _TEXT,
                    "key": {"type": "object", "additionalProperties": _TEXT},
                    "label": _TEXT,
                    "values": {"type": "array", "items": _NUMBER},
                    "total": _NUMBER,
                },
            },
        },
        "complete_until": {"type": "string", "format": "date-time"},
    },
    "example": {
        "start": "2026-01-01T00:00:00+00:00",
        "end": "2026-01-03T00:00:00+00:00",
        "timezone": "UTC",
        "interval": "day",
        "metrics": ["credits"],
        "breakdown": ["voice"],
        "buckets": ["2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"],
        "series": [
            {"metric": "credits", "key": {"voice": "en-us"}, "label": "en-us", "values": [49, 1053.5], "total": 1102.5}
        ],
        "complete_until": "2026-01-02T18:00:00+00:00",
    },
}
REQUEST_SCHEMA: Schema = {
    "type": "object",
    "required": ["id", "time", "workspace", "status", "outcome", "duration_ms", "credits"],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "time": {"type": "string", "format": "date-time"},
        "duration_ms": {"type": "number"},
        "ttfb_ms": _NUMBER,
        "workspace": _TEXT,
        "status": {"type": "integer"},
        "outcome": _TEXT,
        "credits": {"type": "number"},
        "quantities": {"type": "object", "additionalProperties": {"type": "number"}},
        "attributes": {"type": "object", "additionalProperties": _TEXT},
    },
}
REQUESTS_SCHEMA: Schema = {
    "type": "object",
    "required": ["requests", "next_cursor"],
    "properties": {
        "requests": {"type": "array", "items": REQUEST_SCHEMA},
        "next_cursor": {"type": ["string", "null"]},
    },
}
_EVENT_TEXTS = (
    "source", "workspace", "user", "api_key", "product", "voice", "model", "region", "method", "route", "path", "error",
    "request_id", "trace_id",
)  # fmt: skip
EVENTS_BODY: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["id", "time"],
        "additionalProperties": False,
        "properties": {
            "id": {"type": "string", "minLength": 1, "maxLength": 512},
            "time": {"type": ["string", "number"]},
            "version": {"type": "integer", "minimum": 1},
            "kind": {"type": "string", "enum": ["request", "webhook"]},
            "groups": _TEXTS,
            "status": {"type": "integer"},
            "outcome": {"type": ["string", "null"]},
            "duration_ms": {"type": "number", "minimum": 0},
            "ttfb_ms": {"type": ["number", "null"], "minimum": 0},
            "request_bytes": {"type": "integer", "minimum": 0},
            "response_bytes": {"type": "integer", "minimum": 0},
            "credits": {"type": ["number", "string"]},
            "quantities": {"type": "object", "additionalProperties": {"type": "number"}},
            "attributes": {"type": "object", "additionalProperties": _TEXT},
        }
        | dict.fromkeys(_EVENT_TEXTS, _TEXT),
    },
    "example": [
        {
            "id": "job-4711",
            "source": "billing",
            "time": "2026-01-01T12:00:00Z",
            "workspace": "acme",
            "product": "transcription",
            "duration_ms": 1250,
            "credits": "12.5",
            "quantities": {"audio_seconds": 31.4},
        }
    ],
}
ACCEPTED_SCHEMA: Schema = {"type": "object", "required": ["accepted"], "properties": {"accepted": {"type": "integer"}}}
PROBLEMS_SCHEMA: Schema = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "detail": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["loc", "msg", "type"],
                "properties": {
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": _TEXT,
                    "type": _TEXT,
                },
            },
        }
    },
}
_ERROR_FIELDS = ("type", "code", "message", "status", "request_id", "param")
ERROR_SCHEMA: Schema = {
    "type": "object",
    "required": ["detail"],
    "properties": {
        "detail": {
            "type": "object",
            "required": list(_ERROR_FIELDS),
            "properties": {
                name: {"type": ["string", "null"]}
                for name in ("type", "code", "message", "status", "request_id", "param")
            },
        }
    },
}


def error(description: str) -> Schema:
    """An answer that is one error."""
    return {"description": description, "content": {"application/json": {"schema": ERROR_SCHEMA}}}


def responses(description: str, schema: Schema, *, status: int = 200, csv: bool = False) -> dict[int | str, Schema]:
    """One operation's answers: its own, and the errors that every operation can give."""
    content: Schema = {"application/json": {"schema": schema}}
    if csv:
        content["text/csv"] = {"schema": _TEXT}
    return {
        status: {"description": description, "content": content},
        401: error("No token, or not a valid one."),
        403: error("The token does not allow this."),
        422: {
            "description": "The question is malformed; every fault is named.",
            "content": {"application/json": {"schema": PROBLEMS_SCHEMA}},
        },
        503: error("Redis or the store cannot be reached, or is busy."),
    }


def _operation(description: str, schema: Schema, *parameters: Schema, body: Schema | None = None) -> Schema:
    """An endpoint's keyword arguments: its answers, parameters and body."""
    extra: Schema = {"parameters": list(parameters)}
    if body:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return {
        "responses": responses(description, schema) | {404: error("There is no such thing here.")},
        "openapi_extra": extra,
    }


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_INTEGER: Schema = {"type": "integer", "minimum": 0}
_NAMES: Schema = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 256}}
_WORKSPACE = _parameter("workspace", "An operator's: whose; other tokens say it themselves.", _TEXT)
_LIMIT: Schema = {
    "type": "object",
    "required": ["subject"],
    "additionalProperties": False,
    "properties": {
        "subject": {"type": "string", "enum": ["workspace", "user", "api_key"]},
        "value": {"type": "string", "maxLength": 256},
        "monthly_credits": {"type": ["number", "null"], "minimum": 0, "exclusiveMaximum": 10**12},
        "concurrency": {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 2**32},
    },
    "example": {"subject": "user", "value": "alice", "monthly_credits": 10000},
}

VALUES = _operation(
    "The values, the most credits first.",
    _object(
        dimension=_TEXT,
        values=_list(_object(value=_TEXT, label=_TEXT, requests=_INTEGER, credits={"type": "number"})),
        more={"type": "boolean"},
    ),
    _parameter("q", "Only values whose label or identifier contains this.", _TEXT),
    _parameter("limit", "Values to look at.", {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": 100}),
    *_RANGE,
    *_FILTERS,
)
LABELS = _operation("The display names, by value.", _object(labels=_NAMES), _WORKSPACE)
PUT_LABELS = _operation("They are set.", _object(labels=_NAMES), _WORKSPACE, body=_NAMES)
LIMITS = _operation(
    "What is set, used and left.",
    _object(
        limits=_list(
            _object(
                subject=_TEXT,
                value=_TEXT,
                monthly_credits=_NUMBER,
                concurrency={"type": ["integer", "null"]},
                credits_used={"type": "number"},
                credits_remaining=_NUMBER,
            )
        )
    ),
    _WORKSPACE,
    _parameter("tz", "The zone in which the month begins.", {"type": "string", "default": "UTC"}),
)
PUT_LIMITS = _operation("They are set.", _object(accepted=_INTEGER), _WORKSPACE, body=_list(_LIMIT))
AUDIT = _operation(
    "The newest entries.",
    _object(entries=_list(_object(time=_TEXT, workspace=_TEXT, user=_TEXT, role=_TEXT, action=_TEXT, detail=_TEXT))),
)

_RANKED = _list(_object(value=_TEXT, label=_TEXT, total={"type": "number"}))
_TOP: Schema = {"type": ["object", "null"], "additionalProperties": {"type": "object", "additionalProperties": _RANKED}}
_LIVE = _object(
    in_flight=_INTEGER,
    in_flight_by_api_key=_list(_object(value=_TEXT, label=_TEXT, requests=_INTEGER)),
    last_minute=_object(requests=_INTEGER, credits={"type": "number"}, errors=_INTEGER),
    hour=_TOP,
    month=_TOP,
)
LIVE = _operation("What happens now.", _LIVE, _WORKSPACE)


def _stream(description: str, *parameters: Schema) -> Schema:
    operation = _operation(description, _TEXT, *parameters)
    operation["responses"][200]["content"] = {"text/event-stream": {"schema": _TEXT}}
    return operation


LIVE_STREAM = _stream("One event every two seconds, each what `/v1/live` answers.", _WORKSPACE)
TAIL = _stream(
    "One event per call.",
    *(one for one in LOG_PARAMETERS if one["name"] in ("q", "min_latency", "tz", "scope")),
    *_FILTERS,
)
