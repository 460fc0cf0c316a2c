"""Recording for apps that are not Python: events as JSON in, a stream entry out.

All or nothing: a request with one bad event records none of its events, and the error says which one it is. What was
answered with 202 is safe in Redis; sending the same events again changes nothing, because their ids and times are
their keys.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import redis

from aggregator.errors import Problem, QueryError
from aggregator.http.body import UnsupportedBodyError, decoded, fault, invalid, joined
from aggregator.http.cloudevents import HEADER, CloudEvent, from_headers
from aggregator.http.incoming import FieldError, IncomingEvent, usage_event
from aggregator.retention import Retention
from aggregator.tokens import Principal
from usage_meter import keys
from usage_meter.event import FORMAT_VERSION, UsageEvent, concatenated, pack

EVENTS_PER_ENTRY = 5000  # of the stream: an entry is decoded as a whole

JSON = "application/json"
LINES = ("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
CLOUD_EVENT = "application/cloudevents+json"
CLOUD_EVENTS = "application/cloudevents-batch+json"
AS_JSON: Mapping[str, str] = {"content-type": JSON}


class Placed(NamedTuple):
    """An event and where in the body it stands: `[3]`, `line 4`, or nothing where it is the body."""

    place: str
    event: IncomingEvent | CloudEvent


class RefusedError(QueryError):
    """An event that can be read and is not taken. `kind` is the reason in a word: `ahead`, `sealed` or `invalid`."""

    def __init__(self, problems: Sequence[Problem], kind: str) -> None:
        super().__init__(problems)
        self.kind = kind


def parse_events(
    body: bytes, principal: Principal, now_us: int, headers: Mapping[str, str] = AS_JSON, earliest_us: int = 0
) -> list[UsageEvent]:
    """The events of a body of that Content-Type. Raises QueryError whose parameter is the place of the first bad one,
    such as `[3].time`, and UnsupportedBodyError.
    """
    read = _reader(headers)
    return [_made(one, principal, now_us, earliest_us) for one in read(body)]


def _made(placed: Placed, principal: Principal, now_us: int, earliest_us: int) -> UsageEvent:
    one = placed.event
    try:
        if isinstance(one, IncomingEvent):
            return usage_event(one, one.id, one.source, one.time, principal, now_us, earliest_us)
        moment = one.moment()
        if moment is None:
            raise FieldError("time", "is missing: it is what makes a retry harmless, with the id")
        return usage_event(one.data, one.id, one.source, moment, principal, now_us, earliest_us)
    except FieldError as error:
        inside = "" if isinstance(one, IncomingEvent) or error.field == "time" else "data."
        raise RefusedError([fault(joined(placed.place, f"{inside}{error.field}"), error.message)], error.kind) from None


def _reader(headers: Mapping[str, str]) -> Callable[[bytes], Iterator[Placed]]:
    media_type, _, parameters = headers.get("content-type", JSON).partition(";")
    media_type = media_type.strip().lower()
    if "charset" in parameters.lower() and "utf-8" not in parameters.lower():
        raise UnsupportedBodyError(f"JSON is UTF-8: {parameters.strip()[:60]} is not taken here")
    if media_type == JSON and f"{HEADER}specversion" in headers:
        return lambda body: _binary(body, headers)
    readers: dict[str, Callable[[bytes], Iterator[Placed]]] = {
        JSON: lambda body: (_array if body.lstrip()[:1] == b"[" else _object)(body, IncomingEvent),
        CLOUD_EVENT: lambda body: _object(body, CloudEvent),
        CLOUD_EVENTS: lambda body: _array(body, CloudEvent),
        **dict.fromkeys(LINES, _lines),
    }
    if media_type not in readers:
        raise UnsupportedBodyError(
            f"Content-Type '{media_type[:60]}' is not taken here: send {JSON} (an array or one event), {LINES[0]} "
            f"(one event a line), {CLOUD_EVENT} or {CLOUD_EVENTS}"
        )
    return readers[media_type]


_anything: "msgspec.json.Decoder[Any]" = msgspec.json.Decoder()
_one: dict[type, "msgspec.json.Decoder[Any]"] = {
    kind: msgspec.json.Decoder(kind) for kind in (IncomingEvent, CloudEvent)
}
_several: dict[type, "msgspec.json.Decoder[Any]"] = {
    IncomingEvent: msgspec.json.Decoder(list[IncomingEvent]), CloudEvent: msgspec.json.Decoder(list[CloudEvent]),
}  # fmt: skip


def _array(body: bytes, kind: type) -> Iterator[Placed]:
    for position, one in enumerate(decoded(_several[kind], body)):
        yield Placed(f"[{position}]", one)


def _object(body: bytes, kind: type) -> Iterator[Placed]:
    yield Placed("", decoded(_one[kind], body))


def _lines(body: bytes) -> Iterator[Placed]:
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            place = f"line {number}"
            yield Placed(place, decoded(_one[IncomingEvent], line, place))


def _binary(body: bytes, headers: Mapping[str, str]) -> Iterator[Placed]:
    envelope = from_headers(headers, decoded(_anything, body))
    try:
        yield Placed("", msgspec.convert(envelope, CloudEvent))
    except msgspec.ValidationError as error:
        raise QueryError([invalid(error)]) from error


class Ingest:
    """Puts events into the stream that the apps write to."""

    def __init__(self, client: "redis.Redis", shards: int = 1, retention: Retention | None = None) -> None:
        self._redis = client
        self._shards = shards
        self._retention = retention or Retention()
        self._lock = threading.Lock()
        self.refused: dict[str, int] = {}
        """Bodies since the start of this process, by the reason in a word of their first bad event."""

    def read(self, body: bytes, principal: Principal, now_us: int, headers: Mapping[str, str]) -> list[UsageEvent]:
        """As `parse_events`; what it refuses is counted."""
        try:
            return parse_events(body, principal, now_us, headers, self._retention.refused_us(now_us))
        except QueryError as error:
            kind = error.kind if isinstance(error, RefusedError) else "invalid"
            with self._lock:
                self.refused[kind] = self.refused.get(kind, 0) + 1
            raise

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
