"""Answers as CSV and JSON. Pure: takes answers, gives text. (The Request Log's files: request_file.py.)

RFC 4180 with CRLF. A cell that a spreadsheet would run as a formula gets an apostrophe in front: values come from
whoever called the API, and the file is opened by somebody else. Numbers are printed exactly.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal

import msgspec

from aggregator.buckets import from_us
from aggregator.measures import Number
from aggregator.query import Series, UsageAnswer, UsageQuery

PIECE_CHARACTERS = 64 * 1024  # of a CSV at once: each piece is handed from thread to thread
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

_encoder = msgspec.json.Encoder(decimal_format="number")


def to_json(value: object) -> bytes:
    return _encoder.encode(value)


def usage_document(answer: UsageAnswer) -> dict[str, object]:
    """The body of `GET /v1/usage`."""
    query = answer.query
    return {
        "start": iso(query.start_us, query),
        "end": iso(query.end_us, query),
        "timezone": query.zone_name,
        "interval": query.interval,
        "metrics": query.metrics,
        "breakdown": query.breakdown,
        "buckets": [iso(bound, query) for bound in answer.bounds],
        "series": [
            {"metric": one.metric, "key": one.key, "label": one.label, "values": one.values, "total": one.total}
            for one in answer.series
        ],
        "complete_until": iso(answer.complete_until_us, query),
    }


def usage_csv(answer: UsageAnswer, layout: str = "long") -> Iterator[str]:
    """`long`: bucket, breakdowns, metrics, a row per bucket and key; `wide`: bucket and a column per series."""
    rows = _wide(answer) if layout == "wide" else _long(answer)
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    for row in rows:
        writer.writerow(row)
        if buffer.tell() > PIECE_CHARACTERS:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def usage_filename(query: UsageQuery) -> str:
    """Says what the view is: `usage-credits-by-voice-per-day-20260101-20260131.csv`."""
    first = from_us(query.start_us, query.zone).strftime("%Y%m%d")
    last = from_us(query.end_us - 1, query.zone).strftime("%Y%m%d")
    parts = [
        "usage",
        *query.metrics[:3],
        *(["by", *query.breakdown] if query.breakdown else []),
        f"per-{query.interval}",
    ]
    return _filename([*parts, first, last])


def requests_filename(start: datetime, end: datetime) -> str:
    return _filename(["requests", start.strftime("%Y%m%d"), end.strftime("%Y%m%d")])


def _filename(parts: Iterable[str]) -> str:
    name = "-".join(parts).replace(".", "-").replace("_", "-")
    return "".join(c for c in name if c.isascii() and (c.isalnum() or c == "-"))[:120] + ".csv"


def iso(micros: int, query: UsageQuery) -> str:
    """The instant in the question's zone, to the microsecond only where it has one."""
    return from_us(micros, query.zone).isoformat()


def cell(value: str) -> str:
    """A text cell that no spreadsheet takes for a formula."""
    return "'" + value if value.startswith(FORMULA_STARTS) else value


def _number(value: Number | None) -> str:
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else repr(value)


def _long(answer: UsageAnswer) -> Iterator[Sequence[str]]:
    query = answer.query
    yield ["bucket", *map(cell, query.breakdown), *map(cell, query.metrics)]
    per_key: dict[tuple[str, ...], list[Series]] = {}
    for one in answer.series:
        per_key.setdefault(tuple(one.key.values()), []).append(one)
    for i, bound in enumerate(answer.bounds):
        for key, series in per_key.items():
            yield [iso(bound, query), *map(cell, key), *(_number(one.values[i]) for one in series)]


def _wide(answer: UsageAnswer) -> Iterator[Sequence[str]]:
    query = answer.query
    several = len(query.metrics) > 1
    names = [
        f"{one.metric} {one.label}" if several and query.breakdown else one.metric if several else one.label
        for one in answer.series
    ]
    yield ["bucket", *map(cell, names)]
    for i, bound in enumerate(answer.bounds):
        yield [iso(bound, query), *(_number(one.values[i]) for one in answer.series)]
