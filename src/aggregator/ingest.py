"""Recording for apps that are not Python: events as JSON in, a stream entry out.

All or nothing: a request with one bad event records none of its events, and the error says which one it is. What was
answered with 202 is safe in Redis; sending the same events again changes nothing, because their ids and times are
their keys.
"""

import hashlib
import re
from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
import redis
from msgspec import Meta

from aggregator.buckets import to_us
from aggregator.errors import Problem, QueryError
from aggregator.tokens import Principal
from usage_meter import keys
from usage_meter.event import (
    FORMAT_VERSION,
    MAX_TIME_US,
    Kind,
    Outcome,
    UsageEvent,
    UsageEventError,
    concatenated,
    outcome_of,
    pack,
    to_micro,
)

MAX_BYTES = 16 * 1024 * 1024  # of one request's body: some 30,000 events
EVENTS_PER_ENTRY = 5000  # of the stream: an entry is decoded as a whole
FUTURE_US = 86_400 * 1_000_000  # a call further ahead than a day is a broken clock, not a call

_SECONDS_BELOW = 10**11  # a smaller Unix time is seconds, a greater one milliseconds (see parameters.py)

Text = Annotated[str, Meta(max_length=4096)]
Milliseconds = Annotated[float, Meta(ge=0, le=MAX_TIME_US / 1000)]
Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class IncomingEvent(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One event as the API takes it. `id` and `time` are required: they are what makes a retry harmless."""

    id: Annotated[str, Meta(min_length=1, max_length=512)]
    time: str | int | float
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


_decoder = msgspec.json.Decoder(list[IncomingEvent])


def parse_events(body: bytes, principal: Principal, now_us: int) -> list[UsageEvent]:
    """The events of a JSON array. Raises QueryError whose parameter is the position, such as `[3].time`."""
    try:
        incoming = _decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        raise QueryError([Problem(where.rstrip("`") or "body", message)]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QueryError([Problem("body", f"is not a JSON array of events: {error}", "json_invalid")]) from error
    problems: list[Problem] = []
    events = []
    for position, one in enumerate(incoming):
        try:
            events.append(_event(one, principal, now_us))
        except _FieldError as error:
            problems.append(Problem(f"[{position}].{error.field}", error.message))
            break  # the first bad event is what the sender looks for
    if problems:
        raise QueryError(problems)
    return events


class _FieldError(Exception):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


def _event(one: IncomingEvent, principal: Principal, now_us: int) -> UsageEvent:
    started_us = _time(one.time)
    if started_us > now_us + FUTURE_US:
        raise _FieldError("time", f"{one.time} is more than a day in the future")
    try:
        credits_micro = to_micro(one.credits)
    except UsageEventError as error:
        raise _FieldError("credits", str(error)) from None
    return UsageEvent(
        id=_id(one),
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
        source=one.source,
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


def _id(one: IncomingEvent) -> bytes:
    """A UUID is itself; any other text is made into one together with its source, the same each time."""
    if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", one.id):
        return UUID(one.id).bytes
    digest = hashlib.sha256(f"{one.source}\0{one.id}".encode()).digest()
    return UUID(bytes=digest[:16], version=5).bytes


def _time(value: str | int | float) -> int:
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise _FieldError("time", f"'{value[:60]}' is no time: must be ISO 8601 with an offset, or Unix") from None
        if moment.tzinfo is None:
            raise _FieldError("time", f"'{value[:60]}' has no offset: must end in Z or such as +01:00")
        instant = to_us(moment)
    elif value != value or abs(value) > MAX_TIME_US:
        instant = -1
    else:
        instant = round(value * (1_000_000 if abs(value) < _SECONDS_BELOW else 1000))
    if not 0 <= instant <= MAX_TIME_US:
        raise _FieldError("time", f"{value} is out of range: must lie between 1970 and 2200")
    return instant


def _workspace(one: IncomingEvent, principal: Principal) -> str:
    if principal.is_operator:
        if not one.workspace:
            raise _FieldError("workspace", "is missing: an operator's token says no workspace, so each event must")
        return one.workspace
    if one.workspace not in ("", principal.workspace):
        raise _FieldError("workspace", f"'{one.workspace}' is not the token's: leave it out")
    return principal.workspace


class Ingest:
    """Puts events into the stream that the apps write to."""

    def __init__(self, client: "redis.Redis", shards: int = 1) -> None:
        self._redis = client
        self._shards = shards

    def send(self, events: list[UsageEvent]) -> None:
        """Returns when Redis has them all. Raises redis.RedisError: then the sender tries again, which is harmless."""
        per_shard: dict[int, list[UsageEvent]] = {}
        for event in events:
            per_shard.setdefault(keys.shard_of(event.workspace, self._shards), []).append(event)
        for shard, those in per_shard.items():
            with self._redis.pipeline(transaction=True) as transaction:
                for first in range(0, len(those), EVENTS_PER_ENTRY):
                    part = those[first : first + EVENTS_PER_ENTRY]
                    transaction.xadd(
                        keys.events(shard), {"v": FORMAT_VERSION, "n": len(part), "b": pack(concatenated(part))}
                    )
                transaction.execute()
