"""Rows of stream entries side by side, with what repeats in them decoded once. Pure.

The calls of an entry share few dimensions and fewer attributes, which arrive in the same bytes each time. So they are
looked up by their bytes, and whatever is done with them (decoding, checking, a column's dictionary) is done once for
each that is different. From there on a column of them is numbers, which numpy moves at a nanosecond each.
"""

import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from usage_meter.event import EventDimensions, EventRow, decode_attributes, decode_dimensions

PART_ROWS = 8192  # enough for what they have in common to repeat, few enough to stay near the processor's cache
KNOWN = 65_536  # distinct values kept from batch to batch: some 30 MB; what runs wild would fill the memory
DAY_US = 86_400 * 1_000_000
DIMENSIONS = EventDimensions.__struct_fields__

Numbers = NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Repeated(Generic[T]):
    """A column whose values repeat: the distinct ones, and for each row the number of its own among them."""

    distinct: list[T]
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class RowNumbers:
    """What is looked at beside being stored, each as 8 bytes, little-endian."""

    version: Numbers
    started_us: Numbers
    duration_us: Numbers
    credits_micro: Numbers

    def at(self, positions: Numbers) -> "RowNumbers":
        return RowNumbers(
            self.version[positions],
            self.started_us[positions],
            self.duration_us[positions],
            self.credits_micro[positions],
        )


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows that all start on one day (UTC, counted from 1970)."""

    day: int
    rows: Sequence[EventRow]
    numbers: RowNumbers
    dimensions: Mapping[str, Repeated[Any]]
    """By their names in EventDimensions."""
    attributes: Repeated[dict[str, str]]


class Rows:
    """Collects the rows of entries, and gives them out in parts. What repeats is known from one part to the next."""

    def __init__(self) -> None:
        self._dimensions = _Dimensions()
        self._attributes = _Known(decode_attributes)
        self.forget()

    def forget(self) -> None:
        """The rows that were added and not taken; what repeats in them stays known, as long as it is not too much."""
        self._rows: list[EventRow] = []
        self._dimension_numbers = array("I")
        self._attribute_numbers = array("I")
        if len(self._dimensions) > KNOWN:
            self._dimensions = _Dimensions()
        if len(self._attributes) > KNOWN:
            self._attributes = _Known(decode_attributes)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Sequence[EventRow]) -> None:
        """Raises UsageEventError, and has added none of them, when what is still encoded in one cannot be read."""
        dimensions = [self._dimensions[bytes(row.dimensions)] for row in rows]
        attributes = [self._attributes[bytes(row.attributes)] for row in rows]
        self._rows += rows
        self._dimension_numbers.extend(dimensions)
        self._attribute_numbers.extend(attributes)

    def take(self) -> Iterator[Part]:
        """All rows that were added since the last time, each once, in parts of at most 2 * PART_ROWS."""
        all_dimensions, all_attributes = np.array(self._dimension_numbers), np.array(self._attribute_numbers)
        for first in range(0, len(self._rows), 2 * PART_ROWS):
            some = slice(first, first + 2 * PART_ROWS)
            rows, dimensions, attributes = self._rows[some], all_dimensions[some], all_attributes[some]
            numbers = _numbers_of(rows)
            days = numbers.started_us // DAY_US
            if (days == days[0]).all():
                yield self._part(int(days[0]), rows, numbers, dimensions, attributes)
                continue
            for day in np.unique(days):
                at = np.flatnonzero(days == day)
                those = [rows[position] for position in at]
                yield self._part(int(day), those, numbers.at(at), dimensions[at], attributes[at])
        self.forget()

    def _part(
        self, day: int, rows: list[EventRow], numbers: RowNumbers, dimensions: Numbers, attributes: Numbers
    ) -> Part:
        return Part(day, rows, numbers, self._dimensions.columns(dimensions), self._attributes.column(attributes))


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
        self._numbers.extend([column[getattr(shared, name)] for name, column in self._columns.items()])
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


def _numbers_of(rows: Sequence[EventRow]) -> RowNumbers:
    return RowNumbers(
        _packed([row.version for row in rows]),
        _packed([row.started_us for row in rows]),
        _packed([row.duration_us for row in rows]),
        _packed([row.credits_micro for row in rows]),
    )


def _packed(values: Sequence[int]) -> Numbers:
    """In half the time that numpy takes."""
    return np.frombuffer(struct.pack(f"<{len(values)}q", *values), "<i8")


def renumbered(numbers: Numbers, known: int) -> tuple[Numbers, Numbers]:
    """Which of the numbers below `known` there are, rising, and each as its place among them, in as few bytes as do."""
    seen = np.zeros(known, bool)
    seen[numbers] = True
    used = np.flatnonzero(seen)
    places = np.zeros(known, np.min_scalar_type(max(len(used) - 1, 0)))
    places[used] = np.arange(len(used))
    return used, places[numbers]
