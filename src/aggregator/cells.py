"""What the store says of a question, as its answer: cells by bucket and series, merged and filled. Pure.

The rows come from several statements, each of other calls. A cell holds a metric's components, so that two rows of one
bucket and series merge.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aggregator.dimensions import Binder
from aggregator.measures import CONCURRENCY, Number, is_additive
from aggregator.query import OTHER, Series, UsageAnswer, UsageQuery, asked_components, plain_metrics
from aggregator.sketch import Sketch

Key = tuple[str, ...]
Row = Sequence[Any]

_PEAK, _BUSY = 0, 1  # the columns of a statement about concurrency


class Cells:
    """Of one question."""

    def __init__(self, query: UsageQuery) -> None:
        self._query = query
        self._components = asked_components(query, Binder())
        self._calls: dict[tuple[Key, int | None], list[Any]] = {}
        self._flights: dict[tuple[Key, int | None], list[Any]] = {}
        self._keys: dict[Key, None] = {}

    def add_calls(self, rows: Iterable[Row]) -> None:
        sketches = [i for i, one in enumerate(self._components) if one.is_sketch]
        merges = [one.merge for one in self._components]
        self._add(self._calls, rows, merges, sketches)

    def add_flights(self, rows: Iterable[Row]) -> None:
        self._add(self._flights, rows, [max, operator.add], [])

    def _add(
        self,
        cells: dict[tuple[Key, int | None], list[Any]],
        rows: Iterable[Row],
        merges: Sequence[Callable[[Any, Any], Any]],
        sketches: Sequence[int],
    ) -> None:
        width = 2 + len(self._query.breakdown)
        for row in rows:
            key = tuple(map(str, row[2:width]))
            values = list(row[width:])
            for i in sketches:
                values[i] = Sketch(*values[i])
            self._keys[key] = None
            _merge(cells, (key, None if row[0] else int(row[1])), values, merges)

    def _place(self, name: str) -> int:
        return next(i for i, one in enumerate(self._components) if one.name == name)

    def answer(self, complete_until_us: int, *, peak_of_other: bool = True) -> UsageAnswer:
        """The series, greatest first, OTHER last, every bucket filled.

        Without `peak_of_other` that series' peaks are null: they were made of peaks, which say nothing about all
        together.
        """
        query = self._query
        bounds = query.bounds()
        table = _Table(query, bounds, self._keys)
        for one in plain_metrics(query, Binder()):
            places = [self._place(part.name) for part in one.components]
            for (key, bucket), values in self._calls.items():
                table.put(one.name, key, bucket, one.value([values[place] for place in places]))
        for (key, bucket), values in self._flights.items():
            known = peak_of_other or OTHER not in key
            table.put("concurrency", key, bucket, values[_PEAK] if known else None)
            table.put("concurrency_average", key, bucket, table.mean(values[_BUSY], bucket))
        return UsageAnswer(query, bounds, table.series(), complete_until_us)


def _merge(
    cells: dict[tuple[Key, int | None], list[Any]],
    place: tuple[Key, int | None],
    values: list[Any],
    merges: Sequence[Callable[[Any, Any], Any]],
) -> None:
    there = cells.get(place)
    if there is None:
        cells[place] = values
    else:
        cells[place] = [merge(one, other) for merge, one, other in zip(merges, there, values, strict=True)]


class _Table:
    """Numbers by metric and key; turns sparse cells into complete series."""

    def __init__(self, query: UsageQuery, bounds: list[int], keys: Iterable[Key]) -> None:
        self._query = query
        self._lengths = [b - a for a, b in zip(bounds, [*bounds[1:], query.end_us], strict=True)]
        self._keys = list(keys)
        self._values: dict[tuple[str, Key], list[Number | None]] = {}
        self._totals: dict[tuple[str, Key], Number | None] = {}

    def put(self, name: str, key: Key, bucket: int | None, value: Number | None) -> None:
        if bucket is None:
            self._totals[name, key] = value
            return
        values = self._values.get((name, key))
        if values is None:
            values = self._values[name, key] = self._empty(name)
        values[bucket] = value

    def mean(self, busy_us: Number, bucket: int | None) -> float:
        """How many calls were in flight on average, in a bucket or in all of them."""
        length = sum(self._lengths) if bucket is None else self._lengths[bucket]
        return float(busy_us) / length if length else 0

    def _empty(self, name: str) -> list[Number | None]:
        return [_nothing(name)] * len(self._lengths)

    def series(self) -> list[Series]:
        keys = self._keys
        if not keys and not self._query.breakdown:
            keys = [()]
        return [self._one(name, key) for name in self._query.metrics for key in sorted(keys, key=self._order)]

    def _order(self, key: Key) -> tuple[bool, Number, Key]:
        ranked = next((name for name in self._query.metrics if is_additive(name)), self._query.metrics[0])
        return OTHER in key, -(self._totals.get((ranked, key)) or 0), key

    def _one(self, name: str, key: Key) -> Series:
        values = self._values.get((name, key)) or self._empty(name)
        total = self._totals.get((name, key), _nothing(name))
        if self._query.cumulative:
            values = _running(values)
        return Series(name, dict(zip(self._query.breakdown, key, strict=True)), values, total)


def _nothing(name: str) -> Number | None:
    return 0 if is_additive(name) or name in CONCURRENCY else None


def _running(values: Iterable[Number | None]) -> list[Number | None]:
    total: Number = 0
    sums: list[Number | None] = []
    for value in values:
        total = total + (value or 0)  # type: ignore[operator]  # one metric's values are all of one kind
        sums.append(total)
    return sums
