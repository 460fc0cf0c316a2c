"""What calls add up to for the Prometheus counters: requests, credits, and how long they took. Pure.

Counted a batch at a time and by what the calls have in common, since telling a counter with labels of each call takes
longer than storing the call.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from aggregator.columns import Numbers, Repeated
from aggregator.rows import Part
from usage_meter.event import MICRO

# Seconds: from a cache hit to a long generation; a factor of two to two and a half apart, so that a quantile read
# from them is off by less than that.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BOUNDS_US = [round(bound * MICRO) for bound in LATENCY_BUCKETS]


class CallTotals:
    """Sums over incoming calls in their first version: a correction and a webhook are no further request."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """By workspace, product and outcome."""
        self.credits_micro: Counter[tuple[str, str]] = Counter()
        """By workspace and product."""
        self.durations: Counter[tuple[str, int]] = Counter()
        """Calls by product and the number of their latency bucket; the last one is for all that took longer."""
        self.duration_us: Counter[str] = Counter()
        """By product."""

    def add(self, part: Part) -> None:
        """Sums are as exact as a float is, which is what Prometheus keeps."""
        kinds, columns = part.dimensions["kind"], part.columns
        is_call = np.array([kind == "request" for kind in kinds.distinct])[kinds.numbers]
        counted = np.flatnonzero(is_call & (columns.versions == 1))
        if len(counted):
            self._add_requests(part, counted)
            self._add_durations(part, counted)

    def _add_requests(self, part: Part, counted: Numbers) -> None:
        names, of_rows = _grouped([part.dimensions[name] for name in ("workspace", "product", "outcome")], counted)
        calls = np.bincount(of_rows, minlength=len(names)).tolist()
        charged = np.bincount(of_rows, np.maximum(part.columns.credits_micro[counted], 0), len(names)).tolist()
        for name, number, credits_micro in zip(names, calls, charged, strict=True):
            self.requests[name] += number
            self.credits_micro[name[:2]] += int(credits_micro)

    def _add_durations(self, part: Part, counted: Numbers) -> None:
        products, duration_us = part.dimensions["product"], part.columns.duration_us[counted]
        buckets = len(LATENCY_BUCKETS) + 1
        of_rows = products.numbers[counted].astype(np.int64)
        places = of_rows * buckets + np.searchsorted(_BOUNDS_US, duration_us)
        calls = np.bincount(places, minlength=len(products.distinct) * buckets)
        lasted = np.bincount(of_rows, duration_us, len(products.distinct))
        for place in np.flatnonzero(calls).tolist():
            self.durations[products.distinct[place // buckets], place % buckets] += int(calls[place])
        for number in np.flatnonzero(np.bincount(of_rows)).tolist():
            self.duration_us[products.distinct[number]] += int(lasted[number])

    def include(self, others: "CallTotals") -> None:
        self.requests += others.requests
        self.credits_micro += others.credits_micro
        self.durations += others.durations
        self.duration_us += others.duration_us


def _grouped(columns: Sequence[Repeated[Any]], rows: Numbers) -> tuple[list[tuple[Any, ...]], Numbers]:
    """The combinations of values that these rows have in these columns, and for each row the number of its own."""
    combined = np.zeros(len(rows), np.int64)
    for column in columns:
        combined = combined * len(column.distinct) + column.numbers[rows]
    found, of_rows = np.unique(combined, return_inverse=True)
    values: list[list[Any]] = []
    for column in reversed(columns):
        found, numbers = np.divmod(found, len(column.distinct))
        values.insert(0, [column.distinct[number] for number in numbers])
    return list(zip(*values, strict=True)), of_rows
