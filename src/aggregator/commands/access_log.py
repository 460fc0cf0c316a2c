"""A line of a web server's access log as an event. Pure.

The combined log format of Apache and nginx (the common one too, which ends earlier). A request time behind it is taken
when it is there. Of a line's address, referrer and agent nothing is recorded: they only tell lines apart.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from functools import lru_cache
from typing import Any


class Unit(StrEnum):
    """What the number behind a line counts."""

    auto = "auto"
    s = "s"
    ms = "ms"
    us = "us"


_QUOTED = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
_LINE = re.compile(
    rf"(\S+ \S+ (.+?) \[([^\]]{{20,40}})\] {_QUOTED} (\d{{3}}) (\d+|-)(?: {_QUOTED} {_QUOTED})?)(?:\s+(\S.*))?"
)
_REQUEST = re.compile(r"([A-Z]+) (\S+)(?: HTTP/[\d.]+)?")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME = re.compile(r"(\d\d)/([A-Z][a-z]{2})/(\d{4}):(\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)")
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_PER_MS = {Unit.s: 0.001, Unit.ms: 1.0, Unit.us: 1000.0}

RIGHT = '127.0.0.1 - alice [31/Jan/2026:12:00:00 +0000] "GET /path HTTP/1.1" 200 1234 "referrer" "agent"'


class AccessLogError(ValueError):
    """What is wrong with the line."""


class UnitError(AccessLogError):
    """A request time whose unit cannot be told: no line of the file can be read until somebody says it."""


def event(line: str, unit: Unit = Unit.auto) -> tuple[dict[str, Any], str]:
    """The event's fields, and the part of the line that tells it from others: not the request time, which may be cut.

    `line` comes with its line end, if it has one: a server may be writing the last one of its log. `unit` is that of
    the number behind the agent; `auto` takes a number with a decimal point for seconds, as nginx writes it. Raises
    AccessLogError.
    """
    found = _LINE.fullmatch(line.rstrip())
    if not found or (found[8] is None and (found[9] or "").startswith('"')):  # cut off within referrer or agent
        raise AccessLogError(f"is not in the combined log format: must be such as {RIGHT}")
    core, user, moment, request, status, size, _, _, rest = found.groups()
    if size != "-" and core.endswith(size) and not line.endswith("\n"):
        raise AccessLogError("is cut off: its end is still to be written")  # its size may be
    fields: dict[str, Any] = {"time": _unix(moment), "status": int(status)}
    if call := _REQUEST.fullmatch(request):  # else it was no HTTP: what the server answered still counts
        fields["method"], fields["path"] = call[1], call[2].partition("?")[0]
    if user not in ("-", '""'):
        fields["user"] = user
    if size != "-":
        fields["response_bytes"] = int(size)
    if rest and (duration_ms := _duration_ms(rest.split()[0].strip('"'), unit)) is not None:
        fields["duration_ms"] = duration_ms
    return fields, core


def _duration_ms(text: str, unit: Unit) -> float | None:
    """None for what is no number: a field of the server's own."""
    if not _NUMBER.fullmatch(text):
        return None
    if unit is Unit.auto:
        if "." not in text:
            raise UnitError(f"ends with the number {text}: say what it counts with --request-time s, ms or us")
        unit = Unit.s
    return float(text) / _PER_MS[unit]


@lru_cache(maxsize=16)  # many lines have the same second
def _unix(text: str) -> float:
    found = _TIME.fullmatch(text)
    if not found or found[2] not in _MONTHS:
        raise AccessLogError(f"has the time [{text}]: must be such as [31/Jan/2026:12:00:00 +0000]")
    day, month, year, hour, minute, second, sign, hours, minutes = found.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes)) * (-1 if sign == "-" else 1)
    try:
        moment = datetime(
            int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=timezone(offset)
        )
    except ValueError as error:
        raise AccessLogError(f"has the time [{text}]: {error}") from None
    return moment.astimezone(UTC).timestamp()
