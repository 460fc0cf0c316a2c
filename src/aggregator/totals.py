"""What calls add up to for the Prometheus counters: requests, credits, and how long they took. Pure.

Counted a batch at a time and by what the calls have in common, since telling a counter with labels of each call takes
longer than storing the call.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from itertools import count, repeat

from aggregator.rows import Part
from usage_meter.event import MICRO

# Seconds: from a cache hit to a long generation; a factor of two to two and a half apart, so that a quantile read
# from them is off by less than that.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BOUNDS_US = [round(bound * MICRO) for bound in LATENCY_BUCKETS]

_Group = tuple[str, str, str]  # workspace, product and outcome: what the counters tell apart
_NOT_COUNTED: _Group = ("", "", "")


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
        groups: defaultdict[_Group, int] = defaultdict(count().__next__)
        others = groups[_NOT_COUNTED]
        group_of = [
            groups[shared.workspace, shared.product, shared.outcome] if shared.kind == "request" else others
            for shared in part.dimensions.distinct
        ]
        numbers = [
            group_of[number] if row.version == 1 else others
            for number, row in zip(part.dimensions.numbers, part.rows, strict=True)
        ]
        duration_us, charged_micro = [0] * len(groups), [0] * len(groups)
        for number, row in zip(numbers, part.rows, strict=True):
            duration_us[number] += row.duration_us
            if row.credits_micro > 0:
                charged_micro[number] += row.credits_micro
        buckets = map(bisect_left, repeat(_BOUNDS_US), [row.duration_us for row in part.rows])
        calls = Counter(zip(numbers, buckets, strict=True))
        del groups[_NOT_COUNTED]
        for (workspace, product, outcome), number in groups.items():
            self.duration_us[product] += duration_us[number]
            self.credits_micro[workspace, product] += charged_micro[number]
            for bucket in range(len(LATENCY_BUCKETS) + 1):
                if found := calls[number, bucket]:
                    self.requests[workspace, product, outcome] += found
                    self.durations[product, bucket] += found

    def include(self, others: "CallTotals") -> None:
        self.requests += others.requests
        self.credits_micro += others.credits_micro
        self.durations += others.durations
        self.duration_us += others.duration_us
