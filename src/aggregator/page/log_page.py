"""The Request Log as data: a page of calls, and one call with everything known about it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any
from uuid import UUID

from aggregator.buckets import from_us, to_us
from aggregator.dimensions import Filter
from aggregator.page.figure import Cell, exactly
from aggregator.page.view import LOG_ONLY, RANGE_ONLY, USAGE_ONLY, View
from aggregator.page.wording import (
    METRIC_NAMES,
    NOTHING,
    WEEKDAYS,
    counted,
    day,
    dimension_name,
    metric_name,
    value_name,
    written,
)
from aggregator.query import Audience
from aggregator.request_log import Cursor, RequestsQuery

Names = Mapping[str, Mapping[str, str]]
"""Dimension → value → display name."""

NAMED = ("product", "voice", "model", "user")
"""What a row shows by its display name."""
NEIGHBOURS = 4  # calls before and after, of the same key
_DIMENSIONS = ("product", "voice", "model", "region", "source")


@dataclass(frozen=True, slots=True)
class LogRow:
    """One call in the table."""

    id: str
    href: str
    date: str
    time: str
    iso: str
    method: str
    path: str
    status: str
    outcome: str
    outcome_name: str
    latency: Cell
    product: Cell
    voice: Cell
    model: Cell
    user: Cell
    key: str
    credits: Cell


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing known about a call: its name, its text, and a link to the calls that share it."""

    name: str
    text: str
    href: str = ""


@dataclass(frozen=True, slots=True)
class Waterfall:
    """When the first byte came and when the last, as shares of a hundred."""

    first_byte: float | None
    first_byte_text: str
    total_text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call's own page."""

    row: LogRow
    kind: str
    waterfall: Waterfall
    groups: list[tuple[str, list[Fact]]]
    trace: str
    json: str


def rows(view: View, records: Sequence[Mapping[str, Any]], zone: tzinfo, names: Names) -> list[LogRow]:
    return [_row(view, record, zone, names) for record in records]


def _row(view: View, record: Mapping[str, Any], zone: tzinfo, names: Names) -> LogRow:
    moment = datetime.fromisoformat(record["time"]).astimezone(zone)
    return LogRow(
        id=record["id"],
        href=view.bare(f"/requests/{record['id']}").href(),
        date=day(moment),
        time=f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}",
        iso=moment.isoformat(),
        method=record["method"] or NOTHING,
        path=record["path"] or record["route"] or NOTHING,
        status=str(record["status"]) if record["status"] else NOTHING,
        outcome=record["outcome"],
        outcome_name=value_name(record["outcome"], "outcome"),
        latency=Cell(written(record["duration_ms"], "latency_avg"), repr(record["duration_ms"])),
        **{name: _named(record[name], names.get(name, {})) for name in NAMED},
        key=f"…{record['api_key_hint']}" if record["api_key_hint"] else record["api_key"][:10],
        credits=Cell(counted(record["credits"]), exactly(record["credits"])),
    )


def _named(value: str, names: Mapping[str, str]) -> Cell:
    """A display name, with what it stands for behind it."""
    return Cell(names[value], value) if value in names else Cell(value)


def call(view: View, record: Mapping[str, Any], zone: tzinfo, names: Names, trace: str) -> Call:
    """Everything known about one call, in groups; each text that others share links to them in the log."""
    row = _row(view, record, zone, names)
    moment = datetime.fromisoformat(record["time"]).astimezone(zone)
    log = view.bare("/requests")
    around = {"start": (moment - timedelta(days=1)).isoformat(), "end": (moment + timedelta(days=1)).isoformat()}

    def of(name: str, text: str = "") -> Fact:
        value = record[name]
        href = log.href({**around, name: value}) if value else ""
        return Fact(dimension_name(name), text or names.get(name, {}).get(value) or value or NOTHING, href)

    groups = [
        ("Request", [
            Fact("Started", f"{WEEKDAYS[moment.weekday()]} {row.date}, {row.time}"),
            of("method"), of("route"), Fact("Path", row.path),
            Fact("Status", row.status, _status_href(log, around, record)),
            of("outcome", row.outcome_name),
            Fact("Error", record["error"] or NOTHING),
            Fact("Kind", value_name(record["kind"], "kind")),
        ]),
        ("Caller", [
            of("user"), Fact("Groups", ", ".join(record["groups"]) or NOTHING),
            Fact("API key", row.key or NOTHING, log.href({**around, "api_key": record["api_key"]})
                 if record["api_key"] else ""),
            Fact("Workspace", record["workspace"]),
        ]),
        ("Usage", [
            Fact("Credits", exactly(record["credits"])),
            *(Fact(metric_name(f"quantity.{name}"), counted(amount)) for name, amount in record["quantities"].items()),
            *(of(name) for name in _DIMENSIONS),
            *(Fact(name, text) for name, text in record["attributes"].items()),
        ]),
        ("Transfer", [
            Fact(METRIC_NAMES["request_bytes"], written(record["request_bytes"], "request_bytes")),
            Fact(METRIC_NAMES["response_bytes"], written(record["response_bytes"], "response_bytes")),
            Fact("Instance", record["instance"] or NOTHING),
        ]),
        ("To find it again", [
            Fact("Id", record["id"]), Fact("Request id", record["request_id"] or NOTHING),
            Fact("Trace id", record["trace_id"] or NOTHING, trace), Fact("Version", str(record["version"])),
        ]),
    ]  # fmt: skip
    return Call(
        row, value_name(record["kind"], "kind"), _waterfall(record), groups, trace, f"/v1/requests/{record['id']}"
    )


def _status_href(log: View, around: Mapping[str, str], record: Mapping[str, Any]) -> str:
    return log.href({**around, "status": str(record["status"])}) if 100 <= record["status"] <= 999 else ""


def _waterfall(record: Mapping[str, Any]) -> Waterfall:
    total, first = record["duration_ms"], record["ttfb_ms"]
    return Waterfall(
        first_byte=None if first is None or not total else min(100.0, first / total * 100),
        first_byte_text=written(first, "ttfb_avg"),
        total_text=written(total, "latency_avg"),
    )


def neighbours(record: Mapping[str, Any], audience: Audience, *, later: bool) -> RequestsQuery | None:
    """The calls of the same key right before, or right after; None for a call without a key."""
    if not record["api_key"]:
        return None
    moment_us = to_us(datetime.fromisoformat(record["time"]))
    span = 7 * 86_400_000_000  # a key that was silent for longer has no neighbours to speak of
    return RequestsQuery(
        start_us=max(0, moment_us - span),
        end_us=moment_us + span,
        filters=(Filter("api_key", (record["api_key"],)), Filter("workspace", (record["workspace"],))),
        audience=audience,
        limit=NEIGHBOURS,
        cursor=Cursor(moment_us, UUID(record["id"]).bytes),
        descending=not later,
    )


def page_links(view: View, next_cursor: str | None) -> dict[str, str]:
    """To the next page, and back to the first; empty where there is none."""
    return {
        "older": view.href({"cursor": next_cursor}) if next_cursor else "",
        "newest": view.href({"cursor": None}) if view.value("cursor") else "",
    }


def kept_since(asked: RequestsQuery, kept: RequestsQuery) -> str:
    """The first day of which calls are kept, where more was asked for."""
    return day(from_us(kept.start_us, kept.zone)) if kept.start_us > asked.start_us else ""


def tail_href(view: View) -> str:
    """The live tail of the same filters: it has no range, since it begins now."""
    own = [name for name in LOG_ONLY if name not in ("q", "min_latency")]
    return view.answer_href("/v1/requests/stream", *RANGE_ONLY, *USAGE_ONLY, *own)
