"""Answers questions: runs a query's statements on the store and hands the rows back to the query."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from aggregator import request_file, usage_file
from aggregator.answers import Answers
from aggregator.buckets import from_us
from aggregator.errors import NotFoundError, Problem, QueryError
from aggregator.formats import CSV, Format
from aggregator.freshness import Freshness
from aggregator.labels import KeptNames, Labels
from aggregator.plan import Plan, plan
from aggregator.query import Audience, Statement, UsageAnswer, UsageQuery, named
from aggregator.request_log import (
    RequestsAnswer,
    RequestsQuery,
    arrived_statement,
    record,
    request_statement,
    requests_answer,
    requests_statement,
)
from aggregator.retention import Retention
from aggregator.slices import counts_statement, grains_us, lies_in_order, looks, most_calls, slices
from aggregator.store import Store

_TOO_OLD = Problem("end", "")  # without its message, which says since when there are calls


class Reader:
    """`complete_until` gives the moment (UTC microseconds) up to which nothing is on its way to the store any more."""

    def __init__(
        self,
        store: Store,
        complete_until: Callable[[], int],
        labels: Labels | None = None,
        freshness: Freshness | None = None,
        retention: Retention | None = None,
    ) -> None:
        self._store = store
        self._freshness = freshness or Freshness(store)
        self._answers = Answers(store, self._check_kept)
        self._labels = labels or Labels(store)
        self._names = KeptNames(self._labels)
        self._complete_until = complete_until
        self._retention = retention or Retention()

    def usage(self, query: UsageQuery) -> UsageAnswer:
        complete_until_us = self._complete_until()  # before the rows are read: what comes meanwhile is not promised
        planned, labels_mark = self._freshness.ask(lambda known: (plan(query, known), known.labels_mark))
        answer, top = self._answers.of(planned, complete_until_us)
        names = self._names.of(query.audience.workspace, query.breakdown, labels_mark)
        answer, before = named(answer, names), query.previous() if query.compare else None
        if before:
            planned = self._freshness.ask(lambda known: plan(before, known))
            previous, _ = self._answers.of(planned, complete_until_us, top)
            answer = replace(answer, previous=named(previous, names))
        return answer

    def _check_kept(self, planned: Plan) -> None:
        """Raises QueryError where the answer would be made from what may have been removed: it would be too small."""
        now_us = time.time_ns() // 1000
        for one in planned.read():
            removed_us = self._retention.removed_us(one.level.table if one.level else "events", now_us)
            if one.start_us < removed_us:
                kept = f"by {one.level.name}" if one.level else "as single calls"
                since = f"{from_us(removed_us):%Y-%m-%d}"
                fault = f"this is kept {kept}, and that only since {since}: begin there, or ask more coarsely"
                raise QueryError([Problem("start", fault)])

    def kept(self, query: RequestsQuery, fault: Problem = _TOO_OLD) -> RequestsQuery:
        """The question about the calls that are kept: it begins later where older ones may have been removed.

        Raises QueryError, at the place of `fault`, where that leaves nothing to ask for.
        """
        since_us = self._retention.removed_us("events", time.time_ns() // 1000)
        if query.end_us <= since_us:
            message = f"single calls are kept only since {from_us(since_us):%Y-%m-%d}: end later, or ask /v1/usage"
            raise QueryError([replace(fault, message=message)])
        return replace(query, start_us=max(query.start_us, since_us))

    def requests(self, query: RequestsQuery) -> RequestsAnswer:
        rows: Sequence[Sequence[Any]] = ()
        for part in self._freshness.ask(lambda known: looks(query, known.holding)):
            rows = self._store.select(requests_statement(part))
            if len(rows) > query.limit:
                break
        return requests_answer(query, rows)

    def requests_file(self, query: RequestsQuery, format: Format) -> Iterator[bytes]:
        """All calls of the question, without a cap and in flat memory; a failure raises, in the middle too."""
        names = self._labels.of(query.audience.workspace, request_file.NAMED)
        if format is not CSV:
            written = format.read_in_order() if lies_in_order(query) else format
            return self._store.stream([request_file.table_statement(query, names)], written)
        statements = (request_file.csv_statement(part, names) for part in self._slices(query))
        return _led(request_file.CSV_HEADER, self._store.stream(statements, CSV))

    def usage_file(self, answer: UsageAnswer, format: Format) -> Iterator[bytes]:
        """The answer as a Parquet or Arrow file. Raises QueryError when it is too large for one."""
        return self._store.stream([usage_file.table_statement(answer)], format)

    def _slices(self, query: RequestsQuery, grains: Sequence[int] | None = None) -> Iterator[RequestsQuery]:
        """The question's range in pieces that are put into order in flat memory, in its order."""
        grain_us, *finer = grains or grains_us(query)
        for part in slices(query, self._store.select(counts_statement(query, grain_us))):
            if part.calls > most_calls(query) and finer:
                yield from self._slices(part.query, finer)
            else:
                yield part.query

    def complete_until_us(self) -> int:
        """Up to when nothing is on its way to the store any more."""
        return self._complete_until()

    def now_us(self) -> int:
        """The store's clock, by which `arrived` counts."""
        return int(self._store.select(Statement("SELECT toUnixTimestamp64Micro(now64(6))", {}))[0][0])

    def arrived(self, query: RequestsQuery, since_us: int) -> list[dict[str, Any]]:
        """The calls that were stored after `since_us` of the store's clock, oldest first, at most the query's limit."""
        return [record(row[1:], query.zone) for row in self._store.select(arrived_statement(query, since_us))]

    def request(self, id: str, audience: Audience) -> dict[str, Any]:
        """One call by its event id or request id. Raises NotFoundError."""
        rows = self._store.select(request_statement(id, audience))
        if not rows:
            raise NotFoundError(f"there is no request '{id}' here")
        return record(rows[0])


def _led(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """`head` together with the first piece: what fails before that has not begun."""
    yield head + next(pieces, b"")
    yield from pieces
