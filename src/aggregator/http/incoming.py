"""One event as the API takes it, and the event that it becomes. Pure.

The same fields stand in a JSON object, on a JSON line and under a CloudEvent's `data`.
"""

import hashlib
import re
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from aggregator.buckets import from_us, to_us
from aggregator.tokens import Principal
from usage_meter.event import MAX_TIME_US, Kind, Outcome, UsageEvent, UsageEventError, outcome_of, to_micro

FUTURE_US = 86_400 * 1_000_000  # a call further ahead than a day is a broken clock, not a call

_SECONDS_BELOW = 10**11  # a smaller Unix time is seconds, a greater one milliseconds (see parameters.py)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Id = Annotated[str, Meta(min_length=1, max_length=512)]
Text = Annotated[str, Meta(max_length=4096)]
Time = str | int | float
Milliseconds = Annotated[float, Meta(ge=0, le=MAX_TIME_US / 1000)]
Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class EventFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What may be said of a call beside which one it is and when it was."""

    source: Text = ""
    workspace: Text = ""
    version: Annotated[int, Meta(ge=1, le=2**32 - 1)] = 1
    kind: Kind = "request"
    user: Text = ""
    groups: Annotated[list[Text], Meta(max_length=100)] = []
    api_key: Text = ""
    api_key_hint: Text = ""
    product: Text = ""
    voice: Text = ""
    model: Text = ""
    region: Text = ""
    method: Text = ""
    route: Text = ""
    path: Text = ""
    status: Annotated[int, Meta(ge=0, le=999)] = 200
    outcome: Outcome | None = None
    error: Text = ""
    duration_ms: Milliseconds = 0
    ttfb_ms: Milliseconds | None = None
    request_bytes: Bytes = 0
    response_bytes: Bytes = 0
    credits: int | float | str = 0
    quantities: Annotated[dict[Text, float], Meta(max_length=100)] = {}
    attributes: Annotated[dict[Text, Text], Meta(max_length=100)] = {}
    request_id: Text = ""
    trace_id: Text = ""
    instance: Text = ""


class IncomingEvent(EventFields, kw_only=True):
    """`id` and `time` are required: they are what makes a retry harmless."""

    id: Id
    time: Time


class FieldError(Exception):
    """One field whose value cannot be taken, and why."""

    def __init__(self, field: str, message: str, kind: str = "invalid") -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.kind = kind


def usage_event(
    one: EventFields, id: str, source: str, time: Time, principal: Principal, now_us: int, earliest_us: int = 0
) -> UsageEvent:
    """The event of these fields; `id` and `source` together are its key. Raises FieldError.

    What began before `earliest_us` is refused: its day is sealed (retention.py).
    """
    started_us = _instant(time)
    if started_us > now_us + FUTURE_US:
        raise FieldError("time", f"{time} is more than a day in the future", "ahead")
    if started_us < earliest_us:
        first = from_us(earliest_us).date()
        message = f"{time} is too late: days before {first} are sealed, as their calls may be removed"
        raise FieldError("time", message, "sealed")
    try:
        credits_micro = to_micro(one.credits)
    except UsageEventError as error:
        raise FieldError("credits", str(error)) from None
    return UsageEvent(
        id=_id(id, source),
        version=one.version,
        kind=one.kind,
        started_us=started_us,
        duration_us=round(one.duration_ms * 1000),
        ttfb_us=None if one.ttfb_ms is None else round(one.ttfb_ms * 1000),
        workspace=_workspace(one, principal),
        user=one.user,
        groups=tuple(dict.fromkeys(one.groups)),
        api_key=one.api_key,
        api_key_hint=one.api_key_hint,
        product=one.product,
        voice=one.voice,
        model=one.model,
        region=one.region,
        source=one.source or source,
        method=one.method.upper(),
        route=one.route,
        path=one.path.partition("?")[0],  # a query string may carry secrets
        status=one.status,
        outcome=one.outcome or outcome_of(one.status),
        error=one.error,
        request_bytes=one.request_bytes,
        response_bytes=one.response_bytes,
        credits_micro=credits_micro,
        quantities=one.quantities,
        attributes=one.attributes,
        request_id=one.request_id,
        trace_id=one.trace_id,
        instance=one.instance,
    )


def _id(id: str, source: str) -> bytes:
    """A UUID is itself; any other text is made into one together with its source, the same each time."""
    if _UUID.fullmatch(id):
        return UUID(id).bytes
    digest = hashlib.sha256(f"{source}\0{id}".encode()).digest()
    return UUID(bytes=digest[:16], version=5).bytes


def _instant(value: Time) -> int:
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise FieldError("time", f"'{value[:60]}' is no time: must be ISO 8601 with an offset, or Unix") from None
        if moment.tzinfo is None:
            raise FieldError("time", f"'{value[:60]}' has no offset: must end in Z or such as +01:00")
        instant = to_us(moment)
    elif value != value or abs(value) > MAX_TIME_US:
        instant = -1
    else:
        instant = round(value * (1_000_000 if abs(value) < _SECONDS_BELOW else 1000))
    if not 0 <= instant <= MAX_TIME_US:
        raise FieldError("time", f"{value} is out of range: must lie between 1970 and 2200")
    return instant


def _workspace(one: EventFields, principal: Principal) -> str:
    if principal.is_operator:
        if not one.workspace:
            raise FieldError("workspace", "is missing: an operator's token says no workspace, so each event must")
        return one.workspace
    if one.workspace not in ("", principal.workspace):
        raise FieldError("workspace", f"'{one.workspace[:60]}' is not the token's: leave it out")
    return principal.workspace
