"""What each call has of its own, column by column. Pure.

The columns are taken off the rows of an entry while these are still in the processor's cache, and the rows are let go:
thousands of them would be looked through again for every column, and fill the memory meanwhile.
"""

import struct
from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from usage_meter.event import EventRow

Numbers = NDArray[Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Repeated(Generic[T]):
    """A column whose values repeat: the distinct ones, and for each row the number of its own among them."""

    distinct: list[T]
    numbers: Numbers


class Numbered(Generic[T]):
    """A column that grows, of values that repeat."""

    def __init__(self) -> None:
        self._known: defaultdict[T, int] = defaultdict(count().__next__)
        self._numbers = array("I")

    def extend(self, values: Sequence[T]) -> None:
        self._numbers.extend(array("I", list(map(self._known.__getitem__, values))))

    def repeated(self) -> Repeated[T]:
        return Repeated(list(self._known), np.array(self._numbers))


class Columns:
    """Grows by the rows of an entry at a time. The bytes are each row's, one behind the other, little-endian."""

    def __init__(self) -> None:
        self.rows = 0
        self.ids = bytearray()
        self.no_ttfb = bytearray()
        """1 where there is none, which is 0 in `ttfb_us`."""
        self.ttfb_us = bytearray()
        self.request_bytes = bytearray()
        self.response_bytes = bytearray()
        self.amounts = bytearray()
        """Floats: each row's quantities, in the order of their names."""
        self.request_ids: list[str] = []
        self.trace_ids: list[str] = []
        self._versions = bytearray()
        self._started_us = bytearray()
        self._duration_us = bytearray()
        self._credits_micro = bytearray()
        self._paths = Numbered[str]()
        self._quantities = Numbered[tuple[str, ...]]()

    def extend(self, rows: Sequence[EventRow]) -> None:
        self.rows += len(rows)
        self.ids += b"".join([row.id for row in rows])
        self._versions += _packed([row.version for row in rows])
        self._started_us += _packed([row.started_us for row in rows])
        self._duration_us += _packed([row.duration_us for row in rows])
        self._extend_ttfb([row.ttfb_us for row in rows])
        self._paths.extend([row.path for row in rows])
        self.request_bytes += _packed([row.request_bytes for row in rows])
        self.response_bytes += _packed([row.response_bytes for row in rows])
        self._credits_micro += _packed([row.credits_micro for row in rows])
        self._extend_quantities([row.quantities for row in rows])
        self.request_ids += [row.request_id for row in rows]
        self.trace_ids += [row.trace_id for row in rows]

    def _extend_ttfb(self, values: Sequence[int | None]) -> None:
        self.no_ttfb += bytes([value is None for value in values])
        self.ttfb_us += _packed([value or 0 for value in values])

    def _extend_quantities(self, maps: Sequence[dict[str, float]]) -> None:
        self._quantities.extend(list(map(tuple, maps)))
        amounts = list(chain.from_iterable(map(dict.values, maps)))
        self.amounts += struct.pack(f"<{len(amounts)}d", *amounts)

    @property
    def versions(self) -> Numbers:
        return _numbers(self._versions)

    @property
    def started_us(self) -> Numbers:
        return _numbers(self._started_us)

    @property
    def duration_us(self) -> Numbers:
        return _numbers(self._duration_us)

    @property
    def credits_micro(self) -> Numbers:
        return _numbers(self._credits_micro)

    @property
    def paths(self) -> Repeated[str]:
        return self._paths.repeated()

    @property
    def quantities(self) -> Repeated[tuple[str, ...]]:
        """Their names."""
        return self._quantities.repeated()


def _packed(values: Sequence[int]) -> bytes:
    """In half the time that numpy takes."""
    return struct.pack(f"<{len(values)}q", *values)


def _numbers(packed: bytearray) -> Numbers:
    return np.frombuffer(packed, "<i8")
