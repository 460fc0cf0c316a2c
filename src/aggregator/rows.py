"""Rows of stream entries side by side, with what repeats in them decoded once. Pure.

The calls of an entry share few dimensions and fewer attributes, which arrive in the same bytes each time. So they are
looked up by their bytes, and whatever is done with them (decoding, checking, a column's dictionary, a counter) is done
once for each that is different, and not once for each row.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from usage_meter.event import EventDimensions, EventRow, decode_attributes, decode_dimensions

PART_ROWS = 8192  # enough for what they have in common to repeat, few enough to stay near the processor's cache
KNOWN = 16_384  # distinct values kept from part to part: some 20 MB; what runs wild would fill the memory
DAY_US = 86_400 * 1_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Repeated(Generic[T]):
    """A column whose values repeat: the distinct ones, and for each row the number of its own among them."""

    distinct: list[T]
    numbers: list[int]


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows that all start on one day (UTC, counted from 1970)."""

    day: int
    rows: Sequence[EventRow]
    dimensions: Repeated[EventDimensions]
    attributes: Repeated[dict[str, str]]


class Rows:
    """Collects the rows of entries, and gives them out in parts. What repeats is known from one part to the next."""

    def __init__(self) -> None:
        self._dimensions = _Known(decode_dimensions)
        self._attributes = _Known(decode_attributes)
        self._clear()

    def _clear(self) -> None:
        self._rows: list[EventRow] = []
        self._dimension_numbers: list[int] = []
        self._attribute_numbers: list[int] = []
        if len(self._dimensions) > KNOWN:
            self._dimensions = _Known(decode_dimensions)
        if len(self._attributes) > KNOWN:
            self._attributes = _Known(decode_attributes)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Sequence[EventRow]) -> None:
        """Raises UsageEventError, and has added none of them, when what is still encoded in one cannot be read."""
        dimensions = [self._dimensions[bytes(row.dimensions)] for row in rows]
        attributes = [self._attributes[bytes(row.attributes)] for row in rows]
        self._rows += rows
        self._dimension_numbers += dimensions
        self._attribute_numbers += attributes

    def take(self) -> Iterator[Part]:
        """All rows that were added since the last time, each once, in parts of at most 2 * PART_ROWS."""
        for first in range(0, len(self._rows), 2 * PART_ROWS):
            some = slice(first, first + 2 * PART_ROWS)
            rows = self._rows[some]
            days = [row.started_us // DAY_US for row in rows]
            dimensions, attributes = self._dimension_numbers[some], self._attribute_numbers[some]
            if min(days) == max(days):
                yield self._part(days[0], rows, dimensions, attributes)
                continue
            positions: dict[int, list[int]] = {}
            for position, day in enumerate(days):
                positions.setdefault(day, []).append(position)
            for day, at in positions.items():
                yield self._part(day, _at(rows, at), _at(dimensions, at), _at(attributes, at))
        self._clear()

    def _part(self, day: int, rows: list[EventRow], dimensions: list[int], attributes: list[int]) -> Part:
        return Part(day, rows, self._dimensions.part(dimensions), self._attributes.part(attributes))


class _Known(dict[bytes, int], Generic[T]):
    """From encoded values to numbers; `distinct` has the decoded ones by their numbers."""

    def __init__(self, decode: Callable[[bytes], T]) -> None:
        super().__init__()
        self._decode = decode
        self.distinct: list[T] = []

    def __missing__(self, encoded: bytes) -> int:
        self.distinct.append(self._decode(encoded))
        self[encoded] = number = len(self.distinct) - 1
        return number

    def part(self, numbers: Sequence[int]) -> Repeated[T]:
        """Only the values that these rows have, numbered anew: the fewer there are, the smaller is each index."""
        anew: defaultdict[int, int] = defaultdict(count().__next__)
        renumbered = list(map(anew.__getitem__, numbers))
        return Repeated([self.distinct[number] for number in anew], renumbered)


def _at(values: Sequence[T], positions: Sequence[int]) -> list[T]:
    return [values[position] for position in positions]
