"""A CSV row as an event. Pure.

The header names the fields of `POST /v1/events`, in any order; `quantity.NAME` and `attribute.NAME` are columns too, as
they are metrics and dimensions. Our own export has these names, and what it puts before a cell that a spreadsheet would
run is taken away again.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from aggregator.dimensions import ATTRIBUTE, QUANTITY
from aggregator.http.incoming import IncomingEvent

_UNIX = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_DISPLAY_NAMES = {f"{name}_name" for name in IncomingEvent.__struct_fields__}
"""Labels, which our own export has behind its columns: they are no part of a call."""
_DEFUSED = re.compile(r"'[=+\-@\t\r]")  # see request_file.py


class RowError(ValueError):
    """What is wrong with a header or a row."""


def _time(text: str) -> str | int | float:
    if not _UNIX.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def _whole(text: str) -> int:
    if not re.fullmatch(r"-?\d{1,20}", text, re.ASCII):
        raise ValueError("must be a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number, such as 12.5") from None


def _list(text: str) -> Any:
    return _json(text, '["staff","beta"]', list)


def _map(text: str) -> Any:
    return _json(text, '{"name":"value"}', dict)


def _json(text: str, right: str, type: type) -> Any:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, type):
        raise ValueError(f"must be JSON such as {right}")
    return value


_READERS: Mapping[str, Callable[[str], Any]] = {
    "time": _time,
    "status": _whole, "version": _whole, "request_bytes": _whole, "response_bytes": _whole,
    "duration_ms": _number, "ttfb_ms": _number,
    "groups": _list, "quantities": _map, "attributes": _map,
}  # fmt: skip


class Header:
    """The columns of one file. Raises RowError."""

    def __init__(self, names: Sequence[str]) -> None:
        known = IncomingEvent.__struct_fields__
        columns = [name.strip() for name in names]
        unknown = [name for name in columns if name not in (*known, *_DISPLAY_NAMES) and not _is_member(name)]
        if unknown or "time" not in columns:
            wrong = f"has the column '{unknown[0][:60]}'" if unknown else "has no column 'time'"
            raise RowError(
                f"{wrong}: the header must name fields, separated by commas, time among them, of {', '.join(known)}, "
                f"{QUANTITY}NAME and {ATTRIBUTE}NAME"
            )
        if len(set(columns)) < len(columns):
            raise RowError("names a column twice")
        self._columns = columns

    def event(self, cells: Sequence[str]) -> dict[str, Any]:
        """The fields of a row; an empty cell is left out. Raises RowError."""
        if len(cells) != len(self._columns):
            raise RowError(f"has {len(cells)} cells: must be {len(self._columns)}, as in the header")
        fields: dict[str, Any] = {}
        for name, cell in zip(self._columns, cells, strict=True):
            if cell and name not in _DISPLAY_NAMES:
                try:
                    self._put(fields, name, cell[1:] if _DEFUSED.match(cell) else cell)
                except ValueError as error:
                    raise RowError(f"{name} is '{cell[:60]}': {error}") from None
        return fields

    def _put(self, fields: dict[str, Any], name: str, cell: str) -> None:
        if name.startswith(QUANTITY):
            fields.setdefault("quantities", {})[name.removeprefix(QUANTITY)] = _number(cell)
        elif name.startswith(ATTRIBUTE):
            fields.setdefault("attributes", {})[name.removeprefix(ATTRIBUTE)] = cell
        elif name in ("quantities", "attributes"):
            fields[name] = _map(cell) | fields.get(name, {})
        else:
            fields[name] = _READERS.get(name, str)(cell)


def _is_member(name: str) -> bool:
    return any(name.startswith(prefix) and len(name) > len(prefix) for prefix in (QUANTITY, ATTRIBUTE))
