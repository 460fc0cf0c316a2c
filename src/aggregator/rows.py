"""Rows of stream entries side by side, with what repeats in them decoded once. Pure.

The calls of an entry share few dimensions and fewer attributes, which arrive in the same bytes each time. So they are
looked up by their bytes, and whatever is done with them (decoding, checking, a column's dictionary) is done once for
each that is different. From there on a column of them is numbers, which numpy moves at a nanosecond each.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from msgspec.structs import astuple

from aggregator.columns import Columns, Numbers, Repeated
from usage_meter.event import EventDimensions, EventRow, decode_attributes, decode_dimensions

PART_ROWS = 32_768  # a quarter of a batch: enough for what they have in common to repeat
KNOWN = 65_536  # distinct values kept from batch to batch: some 30 MB; what runs wild would fill the memory
DAY_US = 86_400 * 1_000_000
DIMENSIONS = EventDimensions.__struct_fields__

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows that all start on one day (UTC, counted from 1970)."""

    day: int
    columns: Columns
    dimensions: Mapping[str, Repeated[Any]]
    """By their names in EventDimensions."""
    attributes: Repeated[dict[str, str]]


@dataclass(frozen=True, slots=True)
class _Open:
    """A part that still grows."""

    columns: Columns = field(default_factory=Columns)
    dimensions: "array[int]" = field(default_factory=lambda: array("I"))
    attributes: "array[int]" = field(default_factory=lambda: array("I"))

    def extend(self, rows: Sequence[EventRow], dimensions: list[int], attributes: list[int]) -> None:
        self.columns.extend(rows)
        self.dimensions.extend(array("I", dimensions))
        self.attributes.extend(array("I", attributes))


class Rows:
    """Collects the rows of entries, and gives them out in parts. What repeats is known from one part to the next."""

    def __init__(self) -> None:
        self._dimensions = _Dimensions()
        self._attributes = _Known(decode_attributes)
        self.forget()

    def forget(self) -> None:
        """The rows that were added and not taken; what repeats in them stays known, as long as it is not too much."""
        self._rows = 0
        self._parts: list[tuple[int, _Open]] = []
        self._open: dict[int, _Open] = {}  # the last part of each day
        if len(self._dimensions) > KNOWN:
            self._dimensions = _Dimensions()
        if len(self._attributes) > KNOWN:
            self._attributes = _Known(decode_attributes)

    def __len__(self) -> int:
        return self._rows

    def add(self, rows: Sequence[EventRow]) -> None:
        """Raises UsageEventError, and has added none of them, when what is still encoded in one cannot be read."""
        dimensions = [self._dimensions[bytes(row.dimensions)] for row in rows]
        attributes = [self._attributes[bytes(row.attributes)] for row in rows]
        self._rows += len(rows)
        for first in range(0, len(rows), PART_ROWS):
            some = slice(first, first + PART_ROWS)
            self._add(rows[some], dimensions[some], attributes[some])

    def _add(self, rows: Sequence[EventRow], dimensions: list[int], attributes: list[int]) -> None:
        started_us = [row.started_us for row in rows]
        first = min(started_us) // DAY_US
        if first == max(started_us) // DAY_US:
            self._part(first).extend(rows, dimensions, attributes)
            return
        positions: dict[int, list[int]] = {}
        for position, moment in enumerate(started_us):
            positions.setdefault(moment // DAY_US, []).append(position)
        for day, at in positions.items():
            self._part(day).extend([rows[i] for i in at], [dimensions[i] for i in at], [attributes[i] for i in at])

    def _part(self, day: int) -> _Open:
        part = self._open.get(day)
        if part is None or part.columns.rows >= PART_ROWS:
            part = self._open[day] = _Open()
            self._parts.append((day, part))
        return part

    def take(self) -> Iterator[Part]:
        """All rows that were added since the last time, each once, in parts of less than 2 * PART_ROWS."""
        for day, part in self._parts:
            dimensions = self._dimensions.columns(np.array(part.dimensions))
            yield Part(day, part.columns, dimensions, self._attributes.column(np.array(part.attributes)))
        self.forget()


class _Known(dict[Any, int], Generic[T]):
    """From keys to numbers; `distinct` has the values by their numbers."""

    def __init__(self, value_of: Callable[[Any], T]) -> None:
        super().__init__()
        self._value_of = value_of
        self.distinct: list[T] = []

    def __missing__(self, key: Any) -> int:
        self.distinct.append(self._value_of(key))
        self[key] = number = len(self.distinct) - 1
        return number

    def column(self, numbers: Numbers) -> Repeated[T]:
        """Only the values that these rows have, numbered anew: the fewer there are, the smaller is each index."""
        used, anew = renumbered(numbers, len(self.distinct))
        return Repeated([self.distinct[number] for number in used], anew)


class _Dimensions(dict[bytes, int]):
    """From encoded dimensions to their numbers; of each it knows the number of its value in each column."""

    def __init__(self) -> None:
        super().__init__()
        self._columns: dict[str, _Known[Any]] = {name: _Known(lambda value: value) for name in DIMENSIONS}
        self._numbers = array("I")

    def __missing__(self, encoded: bytes) -> int:
        shared = decode_dimensions(encoded)
        columns = zip(self._columns.values(), astuple(shared), strict=True)
        self._numbers.extend(array("I", [column[value] for column, value in columns]))
        self[encoded] = number = len(self)
        return number

    def columns(self, numbers: Numbers) -> dict[str, Repeated[Any]]:
        used, anew = renumbered(numbers, len(self))
        table = np.frombuffer(self._numbers, np.uintc).reshape(-1, len(DIMENSIONS))[used]
        found = {}
        for position, (name, known) in enumerate(self._columns.items()):
            column = known.column(table[:, position])
            found[name] = Repeated(column.distinct, column.numbers[anew])
        return found


def renumbered(numbers: Numbers, known: int) -> tuple[Numbers, Numbers]:
    """Which of the numbers below `known` there are, rising, and each as its place among them, in as few bytes as do."""
    seen = np.zeros(known, bool)
    seen[numbers] = True
    used = np.flatnonzero(seen)
    places = np.zeros(known, np.min_scalar_type(max(len(used) - 1, 0)))
    places[used] = np.arange(len(used))
    return used, places[numbers]
