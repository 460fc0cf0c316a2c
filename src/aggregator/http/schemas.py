"""What answers and bodies look like, as JSON schemas with an example each. Pure."""

from typing import Any, get_args

from aggregator.buckets import INTERVALS
from aggregator.dimensions import DIMENSIONS
from aggregator.limits import SUBJECTS
from aggregator.request_file import COLUMNS, TITLES
from usage_meter.event import MAX_TIME_US, Kind, Outcome

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
MOMENT: Schema = {"type": "string", "format": "date-time"}
NUMBER: Schema = {"type": ["number", "null"]}
STATUS: Schema = {"type": "string", "pattern": "^([1-5]xx|[0-9]{3})$"}
OUTCOME: Schema = {"type": "string", "enum": list(get_args(Outcome))}
KIND: Schema = {"type": "string", "enum": list(get_args(Kind))}


def fields(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def and_perhaps(optional: dict[str, Schema], **properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties | optional}


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def example(schema: Schema, value: object) -> Schema:
    return {**schema, "example": value}


_SERIES: dict[str, Schema] = {
    "buckets": list_of(MOMENT),
    "series": list_of(
        fields(
            metric=TEXT,
            key={"type": "object", "additionalProperties": TEXT},
            label=TEXT,
            values=list_of(NUMBER),
            total=NUMBER,
        )
    ),
}
_PREVIOUS = fields(start=MOMENT, end=MOMENT, **_SERIES)
"""With `compare=previous`; null where that would begin before 1970."""
USAGE = example(
    and_perhaps(
        {"previous": {"anyOf": [_PREVIOUS, {"type": "null"}]}},
        start=MOMENT,
        end=MOMENT,
        timezone=TEXT,
        interval={"type": "string", "enum": list(INTERVALS)},
        metrics=TEXTS,
        breakdown=TEXTS,
        **_SERIES,
        complete_until=MOMENT,
    ),
    {
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
)
USAGE_CSV = example(TEXT, "bucket,voice,credits\r\n2026-01-01T00:00:00+00:00,en-us,49\r\n")

_REQUEST_FIELDS: dict[str, Schema] = {
    **dict.fromkeys(COLUMNS, TEXT),
    "id": {"type": "string", "format": "uuid"},
    "time": MOMENT,
    "kind": KIND,
    "groups": TEXTS,
    "status": COUNT,
    "outcome": OUTCOME,
    "duration_ms": {"type": "number"},
    "ttfb_ms": NUMBER,
    "request_bytes": COUNT,
    "response_bytes": COUNT,
    "credits": {"type": "number"},
    "quantities": {"type": "object", "additionalProperties": NUMBER},
    "attributes": {"type": "object", "additionalProperties": TEXT},
    "version": {"type": "integer", "minimum": 1},
}
_CALL = {
    "id": "0192f3a4-8b1c-7abc-8def-0123456789ab", "time": "2026-01-01T12:00:00.000000+00:00", "duration_ms": 250.0,
    "ttfb_ms": 80.5, "version": 1, "kind": "request", "workspace": "acme", "user": "alice", "groups": ["staff"],
    "api_key": "0b5c…", "api_key_hint": "x7Qa", "product": "text_to_speech", "voice": "en-us", "model": "flash",
    "region": "eu", "source": "api", "method": "POST", "route": "/v1/text-to-speech/{voice_id}",
    "path": "/v1/text-to-speech/en-us", "status": 200, "outcome": "ok", "error": "", "request_bytes": 61,
    "response_bytes": 48_120, "credits": 49, "quantities": {"characters": 49.0}, "attributes": {"tier": "gold"},
    "request_id": "req-4711", "trace_id": "", "instance": "web-1",
}  # fmt: skip
REQUEST = example(fields(**_REQUEST_FIELDS), _CALL)
REQUESTS = example(
    fields(
        requests=list_of(fields(**_REQUEST_FIELDS)),
        next_cursor={"type": ["string", "null"]},
        kept_since={
            "type": ["string", "null"],
            "format": "date-time",
            "description": "Where the calls of the range begin, if older ones are not kept any more.",
        },
    ),
    {"requests": [_CALL], "next_cursor": None, "kept_since": None},
)
REQUESTS_CSV = example(TEXT, ",".join(TITLES) + "\r\n")

_LONG: Schema = {"type": "string", "maxLength": 4096}
_EVENT_FIELDS: dict[str, Schema] = {
    **dict.fromkeys(
        (
            "source", "workspace", "user", "api_key", "api_key_hint", "product", "voice", "model", "region",
            "method", "route", "path", "error", "request_id", "trace_id", "instance",
        ),
        _LONG,
    ),
    "version": {"type": "integer", "minimum": 1, "maximum": 2**32 - 1},
    "kind": KIND,
    "groups": {"type": "array", "items": _LONG, "maxItems": 100},
    "status": {"type": "integer", "minimum": 0, "maximum": 999},
    "outcome": {"type": ["string", "null"], "enum": [*get_args(Outcome), None]},
    "duration_ms": {"type": "number", "minimum": 0, "maximum": MAX_TIME_US / 1000},
    "ttfb_ms": {"type": ["number", "null"], "minimum": 0, "maximum": MAX_TIME_US / 1000},
    "request_bytes": COUNT,
    "response_bytes": COUNT,
    "credits": {"type": ["number", "string"]},
    "quantities": {"type": "object", "additionalProperties": {"type": "number"}, "maxProperties": 100},
    "attributes": {"type": "object", "additionalProperties": _LONG, "maxProperties": 100},
}  # fmt: skip
_ID: Schema = {"type": "string", "minLength": 1, "maxLength": 512}
_TIME: Schema = {"type": ["string", "number"], "description": "ISO 8601 with an offset, or Unix (milli)seconds."}
_EVENT: Schema = {
    "type": "object",
    "required": ["id", "time"],
    "additionalProperties": False,
    "properties": {"id": _ID, "time": _TIME, **_EVENT_FIELDS},
}
_JOB = {
    "id": "job-4711", "source": "billing", "time": "2026-01-01T12:00:00Z", "workspace": "acme",
    "product": "transcription", "duration_ms": 1250, "credits": "12.5", "quantities": {"audio_seconds": 31.4},
}  # fmt: skip
EVENTS: Schema = {"anyOf": [list_of(_EVENT), _EVENT], "example": [_JOB]}
_CLOUD_EVENT: Schema = {
    "type": "object",
    "required": ["specversion", "id", "source", "type", "data"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": _ID,
        "source": {**_LONG, "minLength": 1},
        "type": {**_LONG, "minLength": 1},
        "time": {"type": ["string", "null"], "format": "date-time"},
        "data": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"time": {"type": ["string", "number", "null"]}, **_EVENT_FIELDS},
        },
    },
}
_ENVELOPE = {
    "specversion": "1.0", "id": "job-4711", "source": "/billing", "type": "com.example.transcribed",
    "time": "2026-01-01T12:00:00Z", "data": {"workspace": "acme", "product": "transcription", "credits": "12.5"},
}  # fmt: skip
CLOUD_EVENT = example(_CLOUD_EVENT, _ENVELOPE)
CLOUD_EVENTS = example(list_of(_CLOUD_EVENT), [_ENVELOPE])
EVENT_LINES = example(TEXT, '{"id": "job-1", "time": 1767268800}\n{"id": "job-2", "time": 1767268801}\n')
ACCEPTED = example(fields(accepted=COUNT), {"accepted": 1})

PROBLEMS = example(
    fields(
        detail=list_of(fields(loc={"type": "array", "items": {"type": ["string", "integer"]}}, msg=TEXT, type=TEXT))
    ),
    {"detail": [{"loc": ["query", "metric"], "msg": "'credit' is unknown: must be one of …", "type": "enum"}]},
)
ERROR: Schema = fields(
    detail=fields(
        **dict.fromkeys(("type", "code", "message", "status", "request_id"), TEXT), param={"type": ["string", "null"]}
    )
)

_SHORT: Schema = {"type": "string", "maxLength": 256}
NAMES = example({"type": "object", "additionalProperties": _SHORT}, {"en-us": "Emma"})
LABELS = example(fields(labels={"type": "object", "additionalProperties": _SHORT}), {"labels": {"en-us": "Emma"}})
NEW_LIMITS = example(
    list_of(
        {
            "type": "object",
            "required": ["subject"],
            "additionalProperties": False,
            "properties": {
                "subject": {"type": "string", "enum": list(SUBJECTS)},
                "value": _SHORT,
                "monthly_credits": {"type": ["number", "null"], "minimum": 0, "exclusiveMaximum": 10**12},
                "concurrency": {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 2**32},
            },
        }
    ),
    [{"subject": "user", "value": "alice", "monthly_credits": 10000}],
)
LIMITS = example(
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
    {
        "limits": [
            {
                "subject": "user", "value": "alice", "monthly_credits": 10000, "concurrency": None,
                "credits_used": 1102.5, "credits_remaining": 8897.5,
            }
        ]
    },
)  # fmt: skip
VALUES = example(
    fields(
        dimension=TEXT,
        values=list_of(fields(value=TEXT, label=TEXT, requests=COUNT, credits={"type": "number"})),
        more={"type": "boolean"},
    ),
    {
        "dimension": "voice",
        "values": [{"value": "en-us", "label": "Emma", "requests": 12, "credits": 1102.5}],
        "more": False,
    },
)
AUDIT = example(
    fields(entries=list_of(fields(time=TEXT, workspace=TEXT, user=TEXT, role=TEXT, action=TEXT, detail=TEXT))),
    {
        "entries": [
            {
                "time": "2026-01-02T09:30:00.000000+00:00", "workspace": "acme", "user": "alice", "role": "admin",
                "action": "export", "detail": "/v1/usage.csv?breakdown=voice",
            }
        ]
    },
)  # fmt: skip
REVOKED = example(fields(revoked=TEXT), {"revoked": "9f2c41d07a6be853"})

_RANKED = list_of(fields(value=TEXT, label=TEXT, total={"type": "number"}))
_TOP: Schema = {"type": ["object", "null"], "additionalProperties": {"type": "object", "additionalProperties": _RANKED}}
_HOUR = {"credits": {"voice": [{"value": "en-us", "label": "Emma", "total": 1102.5}]}}
LIVE = example(
    fields(
        in_flight=COUNT,
        in_flight_by_api_key=list_of(fields(value=TEXT, label=TEXT, requests=COUNT)),
        last_minute=fields(requests=COUNT, credits={"type": "number"}, errors=COUNT),
        hour=_TOP,
        month=_TOP,
    ),
    {
        "in_flight": 3,
        "in_flight_by_api_key": [{"value": "0b5c…", "label": "Production", "requests": 3}],
        "last_minute": {"requests": 40, "credits": 2200, "errors": 1},
        "hour": _HOUR,
        "month": _HOUR,
    },
)
DIMENSION: Schema = {
    "anyOf": [{"type": "string", "enum": list(DIMENSIONS)}, {"type": "string", "pattern": r"^attribute\.[^/]+$"}]
}
HEALTH = example(fields(status=TEXT), {"status": "ok"})
READINESS = example(fields(status=TEXT, redis=TEXT, store=TEXT), {"status": "ok", "redis": "ok", "store": "ok"})
