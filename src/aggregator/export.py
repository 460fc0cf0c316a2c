"""Answers as CSV and JSON. Pure: takes answers, gives text. (The Request Log's files: request_file.py.)

RFC 4180 with CRLF. A cell that a spreadsheet would run as a formula gets an apostrophe in front: values come from
whoever called the API, and the file is opened by somebody else. Numbers are printed exactly.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import tzinfo
from decimal import Decimal
from itertools import chain
from typing import cast

import msgspec

from aggregator.buckets import from_us
from aggregator.measures import Number
from aggregator.query import Series, UsageAnswer, UsageQuery
from aggregator.request_log import RequestsAnswer, RequestsQuery

PIECE_CHARACTERS = 64 * 1024  # of a CSV at once: each piece is handed from thread to thread
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

_encoder = msgspec.json.Encoder(decimal_format="number")


def to_json(value: object) -> bytes:
    return _encoder.encode(value)


def usage_document(answer: UsageAnswer) -> dict[str, object]:
    """The body of `GET /v1/usage`; `previous` only where it was asked for (null where it would begin before 1970)."""
    query = answer.query
    document = {
        "start": iso(query.start_us, query),
        "end": iso(query.end_us, query),
        "timezone": query.zone_name,
        "interval": query.interval,
        "metrics": query.metrics,
        "breakdown": query.breakdown,
        **_series_document(answer),
        "complete_until": iso(answer.complete_until_us, query),
    }
    if query.compare:
        before = answer.previous
        document["previous"] = before and {
            "start": iso(before.query.start_us, query),
            "end": iso(before.query.end_us, query),
            **_series_document(before),
        }
    return document


def _series_document(answer: UsageAnswer) -> dict[str, object]:
    return {
        "buckets": [iso(bound, answer.query) for bound in answer.bounds],
        "series": [
            {"metric": one.metric, "key": one.key, "label": one.label, "values": one.values, "total": one.total}
            for one in answer.series
        ],
    }


def requests_document(asked: RequestsQuery, kept: RequestsQuery, answer: RequestsAnswer) -> dict[str, object]:
    """The body of `GET /v1/requests`; `kept_since` is null where all of the range that was asked for is kept."""
    since = from_us(kept.start_us, kept.zone).isoformat() if kept.start_us > asked.start_us else None
    return {"requests": answer.requests, "next_cursor": answer.next_cursor, "kept_since": since}


def usage_csv(answer: UsageAnswer, layout: str = "long") -> Iterator[str]:
    """`long`: a row per bucket and key (see `long_rows`); `wide`: bucket and a column per series."""
    return table_csv(_wide(answer) if layout == "wide" else _long(answer))


def table_csv(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """Rows as CSV, the titles among them; texts made harmless, numbers exact, lists as JSON, nothing for null."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    for row in rows:
        writer.writerow([_written(value) for value in row])
        if buffer.tell() > PIECE_CHARACTERS:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def records_csv(titles: Sequence[str], records: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """A table of an answer: what its records have under these titles."""
    return table_csv(chain([titles], ([record[title] for title in titles] for record in records)))


def long_titles(answer: UsageAnswer) -> list[str]:
    """`bucket, <breakdowns…>, <metrics…>`, then `<breakdown>_name` where a series has a display name."""
    query = answer.query
    return ["bucket", *query.breakdown, *query.metrics, *(f"{dimension}_name" for dimension in _named(answer))]


def long_rows(answer: UsageAnswer) -> Iterator[list[Number | str | None]]:
    """What belongs under `long_titles`: a row per bucket and key, the bucket's start in UTC microseconds."""
    per_key: dict[tuple[str, ...], list[Series]] = {}
    for one in answer.series:
        per_key.setdefault(tuple(one.key.values()), []).append(one)
    named = _named(answer)
    for i, bound in enumerate(answer.bounds):
        for key, series in per_key.items():
            names = [series[0].names.get(dimension, "") for dimension in named]
            yield [bound, *key, *(one.values[i] for one in series), *names]


def usage_filename(query: UsageQuery) -> str:
    """Says what the view is, without the suffix: `usage-credits-by-voice-per-day-20260101-20260131`."""
    return _filename(
        "usage",
        *query.metrics[:3],
        *(["by", *query.breakdown] if query.breakdown else []),
        f"per-{query.interval}",
        *_days(query.start_us, query.end_us, query.zone),
    )


def requests_filename(start_us: int, end_us: int, zone: tzinfo) -> str:
    return _filename("requests", *_days(start_us, end_us, zone))


def table_filename(*words: str) -> str:
    """`dimension-voice`, `limits-acme`."""
    return _filename(*filter(None, words))


def _days(start_us: int, end_us: int, zone: tzinfo) -> tuple[str, str]:
    return from_us(start_us, zone).strftime("%Y%m%d"), from_us(end_us - 1, zone).strftime("%Y%m%d")


def _filename(*parts: str) -> str:
    """Nothing but what every system takes in a name and no header misreads."""
    name = "-".join(parts).replace(".", "-").replace("_", "-")
    return "".join(c for c in name if c.isascii() and (c.isalnum() or c == "-"))[:120]


def iso(micros: int, query: UsageQuery) -> str:
    """The instant in the question's zone, to the microsecond only where it has one."""
    return from_us(micros, query.zone).isoformat()


def cell(value: str) -> str:
    """A text cell that no spreadsheet takes for a formula."""
    return "'" + value if value.startswith(FORMULA_STARTS) else value


def _written(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return cell(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    return repr(value) if isinstance(value, int | float) else to_json(value).decode()


def _named(answer: UsageAnswer) -> list[str]:
    return [dimension for dimension in answer.query.breakdown if any(dimension in one.names for one in answer.series)]


def _long(answer: UsageAnswer) -> Iterator[Sequence[object]]:
    yield long_titles(answer)
    for bound, *rest in long_rows(answer):
        yield [iso(cast(int, bound), answer.query), *rest]


def _wide(answer: UsageAnswer) -> Iterator[Sequence[object]]:
    yield ["bucket", *(_title(one, answer.query) for one in answer.series)]
    for i, bound in enumerate(answer.bounds):
        yield [iso(bound, answer.query), *(one.values[i] for one in answer.series)]


def _title(one: Series, query: UsageQuery) -> str:
    """A series' column: its label, with the identifiers where the label is a display name, and which metric."""
    ids = " · ".join(one.key.values())
    label = f"{one.label} ({ids})" if one.names else one.label
    if len(query.metrics) == 1:
        return label
    return f"{one.metric} {label}" if query.breakdown else one.metric
