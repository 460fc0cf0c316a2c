"""The events of a file, line by line: an access log, JSON lines, or CSV. Memory does not grow with the file.

Each event comes as the fields that `POST /v1/events` takes, with its line's number; a line that is none comes as a
BadLine that says what would be right. What only the service knows to be wrong, it says itself. Lines without an id get
one, the same each time (identity.py). The file may be compressed by gzip; its first bytes tell.
"""

import csv
import gzip
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, BinaryIO

import msgspec

from aggregator.commands import access_log
from aggregator.commands.event_table import Header, RowError
from aggregator.commands.identity import Identity
from aggregator.errors import AggregatorError

MAX_LINE_BYTES = 1024 * 1024  # no event is as long; a file without line ends must not fill the memory

_GZIP = b"\x1f\x8b"
_MILLISECONDS_FROM = 10**11  # a smaller Unix time is seconds


class FileFormat(StrEnum):
    combined = "combined"
    jsonl = "jsonl"
    csv = "csv"


class EventFileError(AggregatorError):
    """The file as a whole cannot be read."""


@dataclass(slots=True)
class Line:
    number: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadLine:
    number: int
    message: str


@dataclass(frozen=True, slots=True)
class Given:
    """What the user says of every line: fields for those that don't have them, and the unit of request times."""

    fields: Mapping[str, Any]
    unit: access_log.Unit = access_log.Unit.auto


def events(file: BinaryIO, format: FileFormat, given: Given) -> Iterator[Line | BadLine]:
    """Raises EventFileError, also in the middle: what came before it is good."""
    reader = {FileFormat.combined: _combined, FileFormat.jsonl: _json_lines, FileFormat.csv: _csv}[format]
    try:
        yield from reader(_inflated(file), given)
    except (OSError, EOFError) as error:  # gzip's faults are OSErrors too
        raise EventFileError(f"the file cannot be read on: {error}") from error


def _inflated(file: BinaryIO) -> BinaryIO:
    buffered = io.BufferedReader(file) if isinstance(file, io.RawIOBase) else file
    start: bytes = buffered.peek(2)[:2] if isinstance(buffered, io.BufferedReader) else b""
    # GzipFile reads like a BinaryIO, only its type does not say so.
    return gzip.GzipFile(fileobj=buffered) if start == _GZIP else buffered  # type: ignore[return-value]


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines with their ends; None for one that is too long."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        if len(line) < MAX_LINE_BYTES or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
        yield number, None


def _each(
    file: BinaryIO, given: Given, read: Callable[[bytes], tuple[dict[str, Any], bytes]]
) -> Iterator[Line | BadLine]:
    """What `read` makes of each line that is not empty: its fields, and what tells it from others."""
    identity = Identity()
    for number, line in _lines(file):
        if line is None:
            yield BadLine(number, f"is longer than {MAX_LINE_BYTES} bytes: must be one event")
        elif line.strip():
            try:
                fields, content = read(line)
            except ValueError as error:
                yield BadLine(number, str(error))
                continue
            yield _line(number, fields, content, given, identity)


def _line(number: int, fields: dict[str, Any], content: bytes, given: Given, identity: Identity) -> Line:
    for name, value in given.fields.items():
        if name == "attributes":
            fields[name] = value | (fields.get(name) or {})
        elif not fields.get(name):
            fields[name] = value
    if not fields.get("id"):
        fields["id"] = identity.of(content, _seconds(fields.get("time")), number)
    return Line(number, fields)


def _combined(file: BinaryIO, given: Given) -> Iterator[Line | BadLine]:
    def read(line: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            fields, core = access_log.event(line.decode(errors="backslashreplace"), given.unit)
        except access_log.UnitError as error:
            raise EventFileError(f"a line {error}") from error
        return fields, core.encode()

    return _each(file, given, read)


def _json_lines(file: BinaryIO, given: Given) -> Iterator[Line | BadLine]:
    def read(line: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            fields = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"is not JSON ({error}): must be one event, such as {_JSON_EXAMPLE}") from None
        if not isinstance(fields, dict):
            raise ValueError(f"is not a JSON object: must be one event, such as {_JSON_EXAMPLE}")
        return fields, line.strip()

    return _each(file, given, read)


_JSON_EXAMPLE = '{"id": "job-1", "time": "2026-01-31T12:00:00Z", "credits": "12.5"}'


def _csv(file: BinaryIO, given: Given) -> Iterator[Line | BadLine]:
    """A faulty encoding is found row by row: what cannot be decoded comes as what cannot be encoded."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _rows(text, given)
    finally:
        text.detach()  # the file is closed by who opened it


def _rows(text: io.TextIOWrapper, given: Given) -> Iterator[Line | BadLine]:
    rows = csv.reader(text)
    try:
        header = Header(next(rows, []))
    except (RowError, csv.Error) as error:
        raise EventFileError(f"line 1 {error}") from error
    identity = Identity()
    while True:
        number = rows.line_num + 1
        try:
            cells = next(rows)
            if not cells:
                continue
            content = "\x1f".join(cells).encode()
            fields = header.event(cells)
        except StopIteration:
            return
        except UnicodeEncodeError:
            yield BadLine(number, "is not UTF-8")
        except csv.Error as error:
            yield BadLine(number, f"is no row of CSV ({error}): is a quote not closed?")
        except RowError as error:
            yield BadLine(number, str(error))
        else:
            yield _line(number, fields, content, given, identity)


def _seconds(time: Any) -> float:
    """Unix seconds of a time as the API takes it; 0 for what is none."""
    try:
        if isinstance(time, str):
            return datetime.fromisoformat(time).timestamp()
        return float(time) if abs(time) < _MILLISECONDS_FROM else time / 1000
    except (ValueError, TypeError, OverflowError):
        return 0.0
