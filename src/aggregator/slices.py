"""A long range as slices, each of which the engine can put into order in flat memory. Pure.

One workspace's calls of a day lie in the log's order: they are read as they lie, however many there are. Those of all
workspaces must be sorted, and a slice of them meets every workspace's calls in blocks of thousands: the larger it is,
the less is read again for the next one. So it is as large as what a sort may put on the disk.

Slices are cut at instants, so no call is in two of them and none between them, whatever arrives while they are read.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from aggregator.buckets import DAY_US, HOUR_US, MINUTE_US, SECOND_US
from aggregator.cover import Span
from aggregator.dimensions import Binder
from aggregator.query import Statement
from aggregator.request_log import RequestsQuery

SLICE_CALLS = 1_000_000  # some 120 MB on the disk while they are sorted (formats.py)
GRAINS_US = (HOUR_US, MINUTE_US, SECOND_US // 10)
"""Where a slice may be cut; the finer ones where an hour, or a minute, holds too many calls."""

ORDERED_CALLS = 50_000  # of several days, which are read at once: few enough to wait in memory for each other
ORDERED_GRAINS_US = (DAY_US,)
"""The store's own: a day is a partition, and only within one do calls lie in order."""

OPEN_DAYS = 7  # of which a single statement may hold a block each, some 5 MB of all columns


FIRST_PAGES = 4  # of calls that the first look for a page goes through, whoever made them
MORE_PAGES = 64  # times as many in the second; the third goes through all


class Slice(NamedTuple):
    """A part of a question's range, and about how many calls it holds."""

    query: RequestsQuery
    calls: int


def counts_statement(query: RequestsQuery, grain_us: int) -> Statement:
    """Rows `(start, calls)` of the grains that hold any, rising. Without FINAL: an upper bound is enough."""
    bind = Binder()
    grain = bind(grain_us, "Int64")
    return Statement(
        f"SELECT intDiv(toUnixTimestamp64Micro(started), {grain}) * {grain} AS grain_us, count() "
        f"FROM events WHERE {query.where(bind)} GROUP BY grain_us ORDER BY grain_us",
        bind.parameters,
    )


def most_calls(query: RequestsQuery) -> int:
    """Of a slice that is not a single grain."""
    return ORDERED_CALLS if query.is_of_one_workspace else SLICE_CALLS


def lies_in_order(query: RequestsQuery) -> bool:
    """Whether a single statement can read all of it as it lies: a partition is a day, and all days are open at once."""
    return query.is_of_one_workspace and (query.end_us - 1) // DAY_US - query.start_us // DAY_US < OPEN_DAYS


def grains_us(query: RequestsQuery) -> Sequence[int]:
    return ORDERED_GRAINS_US if query.is_of_one_workspace else GRAINS_US


def slices(query: RequestsQuery, counts: Iterable[Sequence[int]]) -> list[Slice]:
    """The whole range, cut where a slice would hold more than it may; in the question's order.

    A single grain that holds more is a slice of its own, with the gap behind it.
    """
    most = most_calls(query)
    starts, calls = [query.start_us], [0]
    for start_us, count in counts:
        if calls[-1] and calls[-1] + count > most:
            starts.append(start_us)
            calls.append(0)
        calls[-1] += count
    ends = [*starts[1:], query.end_us]
    found = [
        Slice(replace(query, start_us=start, end_us=end), held)
        for start, end, held in zip(starts, ends, calls, strict=True)
    ]
    return found[::-1] if query.descending else found


def looks(query: RequestsQuery, holding: Callable[[Span, int, bool], Span]) -> list[RequestsQuery]:
    """Where to look for a page of the question: near the page's edge first, at last in the whole range.

    `holding` gives the newest (or the oldest) part of a span that holds so many calls of any kind. What a look finds
    are the first calls in the question's order, so a look that finds enough for the page has found the page.
    """
    whole = Span(query.start_us, query.end_us)
    if query.cursor and query.descending:
        whole = Span(query.start_us, min(query.end_us, query.cursor.started_us + 1))
    elif query.cursor:
        whole = Span(max(query.start_us, query.cursor.started_us), query.end_us)
    calls = FIRST_PAGES * (query.limit + 1)
    spans = [holding(whole, number, query.descending) for number in (calls, calls * MORE_PAGES)] + [whole]
    return [replace(query, start_us=span.start_us, end_us=span.end_us) for span in dict.fromkeys(spans)]
