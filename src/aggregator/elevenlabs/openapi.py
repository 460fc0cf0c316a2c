"""What `/openapi.json` says of ElevenLabs' calls, from the same tables and bodies that they are answered from. Pure."""

from typing import Any

from pydantic import BaseModel

from aggregator.buckets import INTERVALS
from aggregator.dimensions import DIMENSIONS
from aggregator.elevenlabs.tables import RequestsBody, UsageBody
from aggregator.elevenlabs.terms import BREAKDOWNS, HAS_API_KEY, MAX_STEP_SECONDS, MAX_TIME_MS, METRICS
from aggregator.elevenlabs.usage import INTERVALS as THEIR_INTERVALS
from aggregator.http.openapi import FILTERS, WORKSPACE, json, operation, parameter
from aggregator.http.schemas import TEXT, Schema, fields, list_of
from aggregator.measures import METRICS as OUR_METRICS

_INTEGER: Schema = {"type": "integer", "minimum": 0}
_BOOLEAN: Schema = {"type": "boolean"}


def _names(theirs: tuple[str, ...], ours: tuple[str, ...], free: str, default: str) -> Schema:
    names = list(dict.fromkeys((*theirs, *ours)))
    return {
        "anyOf": [{"type": "string", "enum": names}, {"type": "string", "pattern": rf"^{free}\."}],
        "default": default,
    }


def _body(model: type[BaseModel], example: dict[str, Any]) -> Schema:
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inlined(node: Any) -> Any:
        if isinstance(node, list):
            return [inlined(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inlined(definitions[node["$ref"].rpartition("/")[2]])
        return {name: inlined(value) for name, value in node.items() if name != "title"}

    made: Schema = inlined(schema)
    return made | {"example": example}


def _operation(description: str, schema: Schema, *parameters: Schema, body: Schema | None = None) -> Schema:
    return operation(description, json(schema), *parameters, body=body and json(body))


_REQUIRED = {"required": True}
_MOMENT: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_TIME_MS}
_END = "Exclusive, Unix milliseconds; in the 59th second of a minute it means all of that second."

_PARAMETERS = [
    parameter("start_unix", "Inclusive, Unix milliseconds.", _MOMENT, 1767225600000) | _REQUIRED,
    parameter("end_unix", _END, _MOMENT, 1767484799000) | _REQUIRED,
    parameter(
        "include_workspace_metrics",
        "The workspace's calls instead of the caller's own.",
        {"type": "boolean", "default": False},
    ),
    parameter(
        "breakdown_type",
        "One of their names, or a dimension; `user` and `all_api_keys` only of the workspace.",
        _names((*BREAKDOWNS, HAS_API_KEY), DIMENSIONS, "attribute", "none"),
    ),
    parameter(
        "aggregation_interval",
        "By the calendar of `tz`; `cumulative` runs up by day.",
        {"type": "string", "enum": list(dict.fromkeys((*THEIR_INTERVALS, *INTERVALS))), "default": "day"},
        "day",
    ),
    parameter(
        "aggregation_bucket_size",
        "Seconds: overrides the interval. Weeks begin on Monday, days at midnight, hours are counted from midnight.",
        {"type": "integer", "minimum": 1, "maximum": MAX_STEP_SECONDS},
        86_400,
    ),
    parameter(
        "metric", "One of their names, or a metric.", _names(tuple(METRICS), tuple(OUR_METRICS), "quantity", "credits")
    ),
    parameter("tz", "Ours: IANA time zone of the buckets.", {"type": "string", "default": "UTC"}),
    *FILTERS,
]

_CELL: Schema = {"type": ["string", "number", "boolean", "null"]}
_TABLE = fields(
    columns=list_of(TEXT),
    column_types=list_of({"type": "string", "enum": ["String", "Float", "Int", "DateTime", "Bool"]}),
    column_units=list_of({"type": ["string", "null"], "enum": ["ms", "min", "credits", None]}),
    rows=list_of(list_of(_CELL)),
)
_USAGE_EXAMPLE = {
    "columns": ["timestamp", "product_type", "usage_count", "total_minutes", "total_cost", "total_usage"],
    "column_types": ["DateTime", "String", "Int", "Float", "Float", "Float"],
    "column_units": [None, None, None, "min", None, "credits"],
    "rows": [["2026-01-01T00:00:00Z", "text_to_speech", 3, 0.5, None, 125.5]],
}
_LOG_EXAMPLE = {
    "columns": ["request_id", "timestamp", "endpoint", "response_time_ms", "success"],
    "column_types": ["String", "DateTime", "String", "Int", "Bool"],
    "column_units": [None, None, None, "ms", None],
    "rows": [["req_1234567890abcdef", "2026-01-01T12:34:56.789Z", "/v1/text-to-speech/{voice_id}", 120, True]],
}
_UNLIMITED: Schema = {"anyOf": [_INTEGER, {"type": "string", "enum": ["unlimited"]}]}
_QUOTA = {
    "tier": TEXT,
    "character_count": _INTEGER | {"description": "Credits used this month (UTC), rounded up."},
    "character_limit": _INTEGER | {"description": "2**53 - 1 where none is set."},
    "max_credit_limit_extension": _UNLIMITED,
    "next_character_count_reset_unix": _INTEGER,
    "status": {"type": "string", "enum": ["active"]},
}
_QUOTA_EXAMPLE = {
    "tier": "metered",
    "character_count": 1250,
    "character_limit": 10000,
    "max_credit_limit_extension": 0,
    "next_character_count_reset_unix": 1769904000,
    "status": "active",
}
_SUBSCRIPTION = fields(**_QUOTA, open_invoices=list_of({"type": "object"}), has_open_invoices=_BOOLEAN)
_MEMBER = fields(
    user_id=TEXT, email=TEXT, first_name=TEXT, seat_type=TEXT, is_owner=_BOOLEAN, is_locked=_BOOLEAN
)  # fmt: skip
_GROUP = fields(name=TEXT, id=TEXT, members=list_of(TEXT), group_usage_limit=_UNLIMITED, character_count=_INTEGER)
_STAFF = {"name": "Staff", "id": "staff", "members": ["alice"], "group_usage_limit": "unlimited", "character_count": 7}

CHARACTER_STATS = _operation(
    "A number for each bucket, by label.",
    fields(
        time=list_of({"type": "integer"}),
        usage={"type": "object", "additionalProperties": list_of({"type": "number"})},
    )
    | {"example": {"time": [1738252091000, 1739404800000], "usage": {"All": [49, 1053]}}},
    *_PARAMETERS,
)
USAGE_TABLE = _operation(
    "A row for each bucket and group in which calls began.",
    _TABLE | {"example": _USAGE_EXAMPLE},
    body=_body(
        UsageBody,
        {
            "start_time": 1767225600000,
            "end_time": 1767312000000,
            "interval_seconds": 3600,
            "group_by": ["product_type"],
            "filters": [{"column": "voice_id", "operation": "in", "values": ["en-us"]}],
            "time_zone": "Europe/Berlin",
        },
    ),
)
REQUESTS_TABLE = _operation(
    "A row for each call.",
    _TABLE | {"example": _LOG_EXAMPLE},
    body=_body(
        RequestsBody,
        {
            "end_time": 1767312000000,
            "limit": 100,
            "filters": [{"column": "response_time_ms", "operation": "ge", "values": [1000]}],
        },
    ),
)
USER = _operation(
    "Who the token is.",
    fields(user_id=TEXT, workspace_id=TEXT, subscription=fields(**_QUOTA), created_at=_INTEGER, seat_type=TEXT)
    | {
        "example": {
            "user_id": "alice",
            "workspace_id": "acme",
            "subscription": _QUOTA_EXAMPLE,
            "created_at": 0,
            "seat_type": "workspace_member",
        }
    },
    WORKSPACE,
)
SUBSCRIPTION = _operation(
    "The quota.",
    _SUBSCRIPTION | {"example": _QUOTA_EXAMPLE | {"open_invoices": [], "has_open_invoices": False}},
    WORKSPACE,
)
GROUPS = _operation(
    "The groups by id.",
    {"type": "object", "additionalProperties": _GROUP, "example": {"staff": _STAFF}},
    WORKSPACE,
)
GROUP_SEARCH = _operation(
    "The groups of that name.",
    list_of(fields(name=TEXT, id=TEXT, members_emails=list_of(TEXT)))
    | {"example": [{"name": "Staff", "id": "staff", "members_emails": ["alice"]}]},
    parameter("name", "The name, in capitals or not.", {"type": "string", "minLength": 1}) | _REQUIRED,
    WORKSPACE,
)
MEMBERS = _operation(
    "The members.",
    list_of(_MEMBER)
    | {
        "example": [
            {
                "user_id": "alice",
                "email": "alice",
                "first_name": "Alice",
                "seat_type": "workspace_member",
                "is_owner": False,
                "is_locked": False,
            }
        ]
    },
    WORKSPACE,
)
