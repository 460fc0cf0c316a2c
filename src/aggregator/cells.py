"""What the store says of a question, as its answer: cells by bucket and series, merged and filled. Pure.

The rows come from several statements, each of other calls. A cell holds a metric's components, so that two rows of one
bucket and series merge.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aggregator.dimensions import Binder
from aggregator.measures import CONCURRENCY, Metric, Number, is_additive
from aggregator.query import OTHER, Series, UsageAnswer, UsageQuery, asked_components, plain_metrics, ranked_by

Key = tuple[str, ...]
Row = Sequence[Any]
Places = dict[int | None, Row]
"""The rows of one key by the number of their bucket; None is the whole range."""
Reading = Callable[[Row, int | None], Number | None]
"""A row's number, given where it belongs."""


class Cells:
    """Of one question. A row stays as it came unless it has to be merged: a chart may have ten thousand of them."""

    def __init__(self, query: UsageQuery) -> None:
        self._query = query
        self._width = 2 + len(query.breakdown)  # of what stands in a row before its components
        self._components = asked_components(query, Binder())
        self._calls: dict[Key, Places] = {}
        self._flights: dict[Key, Places] = {}

    def add_calls(self, rows: Iterable[Row]) -> None:
        self._add(self._calls, rows, self._merged_calls)

    def add_flights(self, rows: Iterable[Row]) -> None:
        self._add(self._flights, rows, self._merged_flights)

    def _add(self, cells: dict[Key, Places], rows: Iterable[Row], merged: Callable[[Row, Row], Row]) -> None:
        width = self._width
        for row in rows:
            key = tuple(row[2:width])
            places = cells.get(key)
            if places is None:
                places = cells[key] = {}
            place = None if row[0] else row[1]
            there = places.get(place)
            places[place] = row if there is None else merged(there, row)

    def _merged_calls(self, one: Row, other: Row) -> Row:
        pairs = zip(self._components, one[self._width :], other[self._width :], strict=True)
        return (*one[: self._width], *(component.merge(here, there) for component, here, there in pairs))

    def _merged_flights(self, one: Row, other: Row) -> Row:
        (peak, busy_us), (another, more_us) = one[self._width :], other[self._width :]
        return (*one[: self._width], max(peak, another), busy_us + more_us)

    def _add_totals(self) -> None:
        """Where they did not come from the store: then every component is one that adds up."""
        added = range(self._width, self._width + len(self._components))
        for key, places in self._calls.items():
            if None not in places:
                rows = places.values()
                places[None] = (1, None, *key, *(sum(row[i] for row in rows) for i in added))

    @property
    def has_rank(self) -> bool:
        """Whether what decides which keys have a series of their own is among what is asked for."""
        names = {one.name for one in self._components}
        return all(part.name in names for part in ranked_by(self._query, Binder()).components)

    def top(self) -> list[Key]:
        """The keys that have a series of their own, of all that were added; a tie goes to the lesser one."""
        self._add_totals()
        read = self._reading(ranked_by(self._query, Binder()))
        ranks: dict[Key, Any] = {key: read(places[None], None) for key, places in self._calls.items()}
        return sorted(ranks, key=lambda key: (-ranks[key], key))[: self._query.top]

    def fold(self, top: Sequence[Key]) -> bool:
        """Put all keys beyond `top` together as OTHER. False, with nothing done, where that cannot be done here: a call
        in two groups would count twice, and a sketch may have come without what it is merged from."""
        beyond = self._calls.keys() - top
        if beyond and ("group" in self._query.breakdown or any(one.is_sketch for one in self._components)):
            return False
        other: dict[int | None, list[Any]] = {}
        added = range(self._width, self._width + len(self._components))  # whatever is no sketch adds up
        for key in beyond:
            for place, row in self._calls.pop(key).items():
                there = other.get(place)
                if there is None:
                    other[place] = list(row)
                    continue
                for i in added:
                    there[i] += row[i]
        if other:
            self._calls[(OTHER,) * len(self._query.breakdown)] = {**other}
        return True

    def answer(self, complete_until_us: int, *, peak_of_other: bool = True) -> UsageAnswer:
        """The series, greatest first, OTHER last, every bucket filled.

        Without `peak_of_other` that series' peaks are null: they were made of peaks, which say nothing about all
        together.
        """
        query = self._query
        bounds = query.bounds()
        self._add_totals()
        table = _Table(query, bounds, {**self._calls, **self._flights})
        for one in plain_metrics(query, Binder()):
            table.put(one.name, self._calls, self._reading(one))
        peak, busy = self._width, self._width + 1
        table.put("concurrency", self._flights, lambda row, _: row[peak])
        if not peak_of_other:
            other = {key: places for key, places in self._flights.items() if OTHER in key}
            table.put("concurrency", other, lambda row, _: None)
        table.put("concurrency_average", self._flights, lambda row, place: table.mean(row[busy], place))
        return UsageAnswer(query, bounds, table.series(), complete_until_us)

    def _reading(self, one: Metric) -> Reading:
        names = [part.name for part in self._components]
        places = [self._width + names.index(part.name) for part in one.components]
        return lambda row, _: one.value([row[place] for place in places])


class _Table:
    """Numbers by metric and key; turns sparse cells into complete series."""

    def __init__(self, query: UsageQuery, bounds: list[int], keys: Iterable[Key]) -> None:
        self._query = query
        self._lengths = [b - a for a, b in zip(bounds, [*bounds[1:], query.end_us], strict=True)]
        self._keys = list(keys)
        self._values: dict[tuple[str, Key], list[Number | None]] = {}
        self._totals: dict[tuple[str, Key], Number | None] = {}

    def put(self, name: str, cells: Mapping[Key, Places], read: Reading) -> None:
        for key, places in cells.items():
            values = self._values[name, key] = self._empty(name)
            for place, row in places.items():
                if place is None:
                    self._totals[name, key] = read(row, None)
                else:
                    values[place] = read(row, place)

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
        ordered = sorted(keys, key=self._order)
        return [self._one(name, key) for name in self._query.metrics for key in ordered]

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
