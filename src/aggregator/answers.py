"""Answers to questions about usage: puts their statements to the store, and keeps what cannot change.

What a statement about rollups gives never changes: it names the version of each bucket, and a version's rows are
written once, before it is published. So these rows are kept, by the statement and all its values (the workspace is one
of them), and only what is newer than the rollups is asked anew: a late call or a correction makes its buckets dirty,
and what comes of them is of another version, or of the calls themselves.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from typing import Any

from aggregator.cells import Cells
from aggregator.plan import Plan, Top, asks_concurrency, is_swept, without_kept_peaks
from aggregator.query import Statement, UsageAnswer
from aggregator.statements import (
    Asked,
    all_statements,
    concurrency_statements,
    rank_statements,
    top_statement,
    usage_statements,
)
from aggregator.store import CLIENTS, Store

KEPT_BYTES = 48 * 1024 * 1024  # some hundreds of charts; beyond it what was asked longest ago goes
KEPT_SECONDS = 600.0  # somebody may change the tables by hand; then it shows after so long
MOST_CELLS = 16_000  # of all keys, read at once and put together here; of more, the keys are ranked first
MOST_KEYS = 5000  # ranked here, in some milliseconds; the store sorts more of them faster

Rows = Sequence[Sequence[Any]]
TOO_MANY: Rows = []
"""This very list stands for the rows of a statement that gave more than `most`."""


class KeptRows:
    """Rows of statements that always give the same; any thread may ask."""

    def __init__(self, store: Store, most_bytes: int = KEPT_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._most_bytes = most_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: OrderedDict[bytes, tuple[float, int, Rows]] = OrderedDict()
        self._bytes = 0

    def of(self, asked: Asked) -> Rows:
        if asked.is_kept:
            return self.select(asked.statement, asked.most)
        return self._select(asked.statement, asked.most)

    def _select(self, statement: Statement, most: int | None) -> Rows:
        rows = self._store.select(statement)
        return TOO_MANY if most is not None and len(rows) > most else rows

    def select(self, statement: Statement, most: int | None = None) -> Rows:
        key = blake2b(repr((statement.sql, statement.parameters)).encode(), digest_size=16).digest()
        with self._lock:
            until, _, rows = self._rows.get(key, (0.0, 0, ()))
            if self._clock() < until:
                self._rows.move_to_end(key)
                return rows
        rows = self._select(statement, most)
        with self._lock:
            self._put(key, rows)
        return rows

    def _put(self, key: bytes, rows: Rows) -> None:
        size = _size(rows)
        self._bytes += size - self._rows.pop(key, (0.0, 0, ()))[1]
        self._rows[key] = (self._clock() + KEPT_SECONDS, size, rows)
        while self._bytes > self._most_bytes:
            _, (_, removed, _) = self._rows.popitem(last=False)
            self._bytes -= removed


def _size(rows: Rows) -> int:
    """Bytes, about: a number is an object of its own, and a sketch's state is a text."""
    if not rows:
        return 0
    sketches = [place for place, value in enumerate(rows[0]) if isinstance(value, tuple)]
    states = sum(len(row[place][1]) for place in sketches for row in rows)
    return len(rows) * 64 * (1 + len(rows[0])) + states


class Answers:
    """`check` raises where a plan reads what may have been removed."""

    def __init__(
        self,
        store: Store,
        check: Callable[[Plan], None],
        most_keys: int = MOST_KEYS,
        most_cells: int = MOST_CELLS,
    ) -> None:
        self._store = store
        self._kept = KeptRows(store)
        self._check = check
        self._most_keys = most_keys
        self._most_cells = most_cells
        self._beside = ThreadPoolExecutor(CLIENTS, "statement")  # each question has at most one of them

    def of(self, planned: Plan, complete_until_us: int, top: Top | None = None) -> tuple[UsageAnswer, Top]:
        """The answer, and the keys that have a series of their own: those of `top` where it is given."""
        self._check(planned)
        cells = None
        if top is None:
            cells, top = self._ranked(planned)
        if cells is None:
            cells = Cells(planned.query)
            for rows in self._rows(usage_statements(planned, top)):
                cells.add_calls(rows)
        if len(top) == planned.query.top and is_swept(planned.query):
            planned = without_kept_peaks(planned)
            self._check(planned)
        for rows in self._rows(concurrency_statements(planned, top)):
            cells.add_flights(rows)
        return cells.answer(complete_until_us, peak_of_other=planned.kept is None), top

    def _ranked(self, planned: Plan) -> tuple[Cells | None, Top]:
        """The keys that have a series of their own, and the cells too where they came with them."""
        cells = self._cells_of_all(planned)
        if cells is None:
            return None, self._top(planned)
        top = cells.top()
        return cells if cells.fold(top) else None, top

    def _cells_of_all(self, planned: Plan) -> Cells | None:
        """In one look for each table. None where that would be too much, or cannot rank them."""
        query, cells = planned.query, Cells(planned.query)
        if not query.breakdown or asks_concurrency(query) or not cells.has_rank:
            return None
        for rows in self._rows(all_statements(planned, self._most_cells)):
            if rows is TOO_MANY:
                return None
            cells.add_calls(rows)
        return cells

    def _top(self, planned: Plan) -> Top:
        """Ranked here from what each table says, so that only what is newer than the rollups has to be asked for."""
        query = planned.query
        if not query.breakdown:
            return []
        ranks: dict[tuple[str, ...], Any] = {}
        for rows in self._rows(rank_statements(planned, self._most_keys + 1)):
            if len(rows) > self._most_keys:
                return self._top_of_very_many(planned)
            for *key, rank in rows:
                name = tuple(map(str, key))
                ranks[name] = ranks.get(name, 0) + rank
        return sorted(ranks, key=lambda key: (-ranks[key], key))[: query.top]

    def _top_of_very_many(self, planned: Plan) -> Top:
        statement = top_statement(planned)
        return self._store.select(statement) if statement else []

    def _rows(self, asked: Iterable[Asked]) -> Iterator[Rows]:
        """Two at once: the engine plans most of them for longer than it reads, on one core. Not more, since the store
        has its clients for other questions too."""
        waiting = list(asked)
        while waiting:
            here, *waiting = waiting
            beside = self._beside.submit(self._kept.of, waiting.pop(0)) if waiting else None
            yield self._kept.of(here)
            if beside:
                yield beside.result()
