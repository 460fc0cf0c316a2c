"""The Request Log's question: find calls, newest first, page by page. Pure, no I/O.

A page ends at a call, and the next one begins behind it (by start and id), so pages stay put while new calls arrive.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any
from uuid import UUID

from aggregator.buckets import from_us, to_us
from aggregator.dimensions import Binder, Condition, Filter
from aggregator.measures import exact
from aggregator.query import EVERYBODY, Audience, Statement, conditions, in_range, moment

MAX_LIMIT = 1000  # rows of one JSON page; the CSV has no cap

_SEARCHED = ("request_id", "trace_id", "path", "error")

FIELDS = (
    "id", "version", "kind", "started", "duration_us", "ttfb_us", "workspace", "user", "groups", "api_key",
    "api_key_hint", "product", "voice", "model", "region", "source", "method", "route", "path", "status", "outcome",
    "error", "request_bytes", "response_bytes", "credits", "quantities", "attributes", "request_id", "trace_id",
    "instance",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last call of a page."""

    started_us: int
    id: bytes

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(self.started_us.to_bytes(8, "big") + self.id).decode()

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        try:
            raw = base64.urlsafe_b64decode(text.encode("ascii"))
        except (binascii.Error, ValueError):
            return None
        return cls(int.from_bytes(raw[:8], "big"), raw[8:]) if len(raw) == 24 and raw[0] < 0x80 else None


@dataclass(frozen=True, slots=True)
class RequestsQuery:
    """`[start_us, end_us)` in UTC microseconds; everything validated (see parameters.py)."""

    start_us: int
    end_us: int
    zone: tzinfo = UTC
    filters: tuple[Condition, ...] = ()
    audience: Audience = EVERYBODY
    text: str = ""
    min_latency_us: int | None = None
    limit: int = 100
    cursor: Cursor | None = None
    descending: bool = True

    @property
    def is_of_one_workspace(self) -> bool:
        """Whether the token or a filter leaves a single workspace: the store keeps its calls in the log's order."""
        return self.audience.workspace is not None or any(
            isinstance(one, Filter) and one.dimension == "workspace" and len(one.values) == 1 and not one.negated
            for one in self.filters
        )

    def where(self, bind: Binder) -> str:
        found = conditions(self.audience, self.filters, bind) + in_range(self.start_us, self.end_us, bind)
        if self.min_latency_us is not None:
            found.append(f"duration_us >= {bind(self.min_latency_us, 'Int64')}")
        if self.text:
            found.append(_search(self.text, bind))
        if self.cursor:
            sign = "<" if self.descending else ">"
            start, id = moment(self.cursor.started_us, bind), _id(self.cursor.id, bind)
            found.append(f"(started {sign} {start} OR (started = {start} AND id {sign} {id}))")
        return " AND ".join(found)


@dataclass(frozen=True, slots=True)
class RequestsAnswer:
    """A page of calls as JSON-ready records, and where the next page begins (None: this was the last)."""

    requests: list[dict[str, Any]]
    next_cursor: str | None


def requests_statement(query: RequestsQuery) -> Statement:
    """Rows of FIELDS; one more than the limit, which tells whether there is a next page."""
    statement = every_request_statement(query)
    bind = Binder(statement.parameters)
    return Statement(f"{statement.sql} LIMIT {bind(query.limit + 1, 'UInt32')}", bind.parameters)


def every_request_statement(query: RequestsQuery) -> Statement:
    """Rows of FIELDS without a limit: the CSV's."""
    bind = Binder()
    where = query.where(bind)
    direction = "DESC" if query.descending else "ASC"
    order = f"started {direction}, id {direction}, workspace"
    return Statement(f"SELECT {', '.join(FIELDS)} FROM events FINAL WHERE {where} ORDER BY {order}", bind.parameters)


def arrived_statement(query: RequestsQuery, since_us: int) -> Statement:
    """Rows `(inserted microseconds, FIELDS…)` of the calls that were stored after `since_us`, in that order."""
    bind = Binder()
    where = query.where(bind)
    limit = bind(query.limit, "UInt32")
    return Statement(
        f"SELECT toUnixTimestamp64Micro(inserted) AS arrived_us, {', '.join(FIELDS)} FROM events FINAL "
        f"WHERE {where} AND inserted > {moment(since_us, bind)} ORDER BY arrived_us, started, id LIMIT {limit}",
        bind.parameters,
    )


def request_statement(id: str, audience: Audience) -> Statement:
    """Rows of FIELDS for one call, by its event id or by the request id that its client saw; the newest first."""
    bind = Binder()
    found = [f"request_id = {bind(id, 'String')}"]
    uuid = _uuid(id)
    if uuid:
        found.append(f"id = {_id(uuid.bytes, bind)}")
    where = " AND ".join([f"({' OR '.join(found)})", *conditions(audience, (), bind)])
    return Statement(
        f"SELECT {', '.join(FIELDS)} FROM events FINAL WHERE {where} ORDER BY started DESC LIMIT 1", bind.parameters
    )


def requests_answer(query: RequestsQuery, rows: Sequence[Sequence[Any]]) -> RequestsAnswer:
    page = rows[: query.limit]
    cursor = None
    if len(rows) > query.limit:
        last = dict(zip(FIELDS, page[-1], strict=True))
        cursor = str(Cursor(to_us(last["started"].astimezone(UTC)), bytes(last["id"])))
    return RequestsAnswer([record(row, query.zone) for row in page], cursor)


def record(row: Sequence[Any], zone: tzinfo = UTC) -> dict[str, Any]:
    """A row of FIELDS under the names and units of `POST /v1/events`: milliseconds, ISO times, exact credits."""
    fields = dict(zip(FIELDS, row, strict=True))
    fields["id"] = str(UUID(bytes=bytes(fields["id"])))
    duration_us, ttfb_us = fields.pop("duration_us"), fields.pop("ttfb_us")
    started = from_us(to_us(fields.pop("started").astimezone(UTC)), zone)
    fields["credits"] = exact(fields["credits"])
    return {
        "id": fields.pop("id"),
        "time": started.isoformat(timespec="microseconds"),
        "duration_ms": duration_us / 1000,
        "ttfb_ms": None if ttfb_us is None else ttfb_us / 1000,
        **fields,
    }


def _search(text: str, bind: Binder) -> str:
    """Free text: a part of the path or the error, a request or trace id, or the event's id."""
    needle = bind(text, "String")
    found = [f"positionCaseInsensitiveUTF8({column}, {needle}) > 0" for column in _SEARCHED]
    uuid = _uuid(text)
    if uuid:
        found.append(f"id = {_id(uuid.bytes, bind)}")
    return f"({' OR '.join(found)})"


def _id(id: bytes, bind: Binder) -> str:
    return f"toFixedString(unhex({bind(id.hex(), 'String')}), 16)"


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
