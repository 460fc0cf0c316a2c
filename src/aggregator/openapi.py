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


def parameter(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def choice(values: tuple[str, ...], default: str) -> Schema:
    return {"type": "string", "enum": list(values), "default": default}


TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "array", "items": TEXT}
_TIME = "ISO 8601 date or date-time, or Unix seconds or milliseconds; a bare date is local midnight in `tz`."

_RANGE = [
    parameter("start", f"Inclusive. {_TIME}", TEXT),
    parameter("end", f"Exclusive; a bare date includes that day; default now. {_TIME}", TEXT),
    parameter("last", f"Instead of `start`: `24h`, `7d`, `{DEFAULT_RANGE}` (the default), `12mo`.", TEXT),
    parameter("tz", "IANA time zone of the buckets and of local times.", {"type": "string", "default": "UTC"}),
    parameter("scope", "The caller's own calls, or all of the workspace.", choice(("account", "workspace"), "account")),
]
_FILTERS = [
    parameter(name, f"Only calls with this {name}; repeat for several. `not.{name}` excludes.", _TEXTS)
    for name in DIMENSIONS
]

USAGE_PARAMETERS = [
    parameter("metric", f"{', '.join(METRICS)}, or `quantity.NAME`; repeatable; default credits.", _TEXTS),
    parameter("interval", "Size of the buckets, by the calendar of `tz`.", choice(tuple(INTERVALS), "day")),
    parameter("breakdown", "Up to two dimensions, or `attribute.NAME`: one series per value.", _TEXTS),
    parameter("cumulative", "Running sums over the range.", choice(("true", "false"), "false")),
    parameter(
        "top",
        "Series to show; all others are one, `__other__`.",
        {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": 20},
    ),
    *_RANGE,
    *_FILTERS,
]
LAYOUT_PARAMETER = parameter(
    "layout", "A row per bucket and key, or a column per series.", choice(("long", "wide"), "long")
)
LOG_PARAMETERS = [
    parameter("q", "Free text: event id, request id, trace id, part of path or error.", TEXT),
    parameter("min_latency", "Only calls that took at least so many milliseconds.", {"type": "number", "minimum": 0}),
    parameter("limit", "Calls per page.", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100}),
    parameter("cursor", "`next_cursor` of the page before.", TEXT),
    parameter("order", "By start.", choice(("desc", "asc"), "desc")),
    *_RANGE,
    *_FILTERS,
]

NUMBER: Schema = {"type": ["number", "null"]}
USAGE_SCHEMA: Schema = {
    "type": "object",
    "required": ["start", "end", "timezone", "interval", "metrics", "breakdown", "buckets", "series", "complete_until"],
    "properties": {
        "start": {"type": "string", "format": "date-time"},
        "end": {"type": "string", "format": "date-time"},
        "timezone": TEXT,
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
                    "metric": TEXT,
                    "key": {"type": "object", "additionalProperties": TEXT},
                    "label": TEXT,
                    "values": {"type": "array", "items": NUMBER},
                    "total": NUMBER,
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
        "ttfb_ms": NUMBER,
        "workspace": TEXT,
        "status": {"type": "integer"},
        "outcome": TEXT,
        "credits": {"type": "number"},
        "quantities": {"type": "object", "additionalProperties": {"type": "number"}},
        "attributes": {"type": "object", "additionalProperties": TEXT},
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
            "attributes": {"type": "object", "additionalProperties": TEXT},
        }
        | dict.fromkeys(_EVENT_TEXTS, TEXT),
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
                    "msg": TEXT,
                    "type": TEXT,
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
        content["text/csv"] = {"schema": TEXT}
    return {
        status: {"description": description, "content": content},
        401: error("No token, or not a valid one."),
        429: error("Too many tokens were refused."),
        403: error("The token does not allow this."),
        422: {
            "description": "The question is malformed; every fault is named.",
            "content": {"application/json": {"schema": PROBLEMS_SCHEMA}},
        },
        503: error("Redis or the store cannot be reached, or is busy."),
    }


def operation(description: str, schema: Schema, *parameters: Schema, body: Schema | None = None) -> Schema:
    """An endpoint's keyword arguments: its answers, parameters and body."""
    extra: Schema = {"parameters": list(parameters)}
    if body:
        extra["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return {
        "responses": responses(description, schema) | {404: error("There is no such thing here.")},
        "openapi_extra": extra,
    }


def fields(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_INTEGER: Schema = {"type": "integer", "minimum": 0}
_NAMES: Schema = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 256}}
WORKSPACE = parameter("workspace", "An operator's: whose; other tokens say it themselves.", TEXT)
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

VALUES = operation(
    "The values, the most credits first.",
    fields(
        dimension=TEXT,
        values=list_of(fields(value=TEXT, label=TEXT, requests=_INTEGER, credits={"type": "number"})),
        more={"type": "boolean"},
    ),
    parameter("q", "Only values whose label or identifier contains this.", TEXT),
    parameter("limit", "Values to look at.", {"type": "integer", "minimum": 1, "maximum": MAX_TOP, "default": 100}),
    *_RANGE,
    *_FILTERS,
)
LABELS = operation("The display names, by value.", fields(labels=_NAMES), WORKSPACE)
PUT_LABELS = operation("They are set.", fields(labels=_NAMES), WORKSPACE, body=_NAMES)
LIMITS = operation(
    "What is set, used and left.",
    fields(
        limits=list_of(
            fields(
                subject=TEXT,
                value=TEXT,
                monthly_credits=NUMBER,
                concurrency={"type": ["integer", "null"]},
                credits_used={"type": "number"},
                credits_remaining=NUMBER,
            )
        )
    ),
    WORKSPACE,
    parameter("tz", "The zone in which the month begins.", {"type": "string", "default": "UTC"}),
)
PUT_LIMITS = operation("They are set.", fields(accepted=_INTEGER), WORKSPACE, body=list_of(_LIMIT))
AUDIT = operation(
    "The newest entries.",
    fields(entries=list_of(fields(time=TEXT, workspace=TEXT, user=TEXT, role=TEXT, action=TEXT, detail=TEXT))),
)

_RANKED = list_of(fields(value=TEXT, label=TEXT, total={"type": "number"}))
_TOP: Schema = {"type": ["object", "null"], "additionalProperties": {"type": "object", "additionalProperties": _RANKED}}
_LIVE = fields(
    in_flight=_INTEGER,
    in_flight_by_api_key=list_of(fields(value=TEXT, label=TEXT, requests=_INTEGER)),
    last_minute=fields(requests=_INTEGER, credits={"type": "number"}, errors=_INTEGER),
    hour=_TOP,
    month=_TOP,
)
LIVE = operation("What happens now.", _LIVE, WORKSPACE)


def _stream(description: str, *parameters: Schema) -> Schema:
    made = operation(description, TEXT, *parameters)
    made["responses"][200]["content"] = {"text/event-stream": {"schema": TEXT}}
    return made


LIVE_STREAM = _stream("One event every two seconds, each what `/v1/live` answers.", WORKSPACE)
TAIL = _stream(
    "One event per call.",
    *(one for one in LOG_PARAMETERS if one["name"] in ("q", "min_latency", "tz", "scope")),
    *_FILTERS,
)

REVOKE = operation("It is refused from now on.", fields(revoked=TEXT))
