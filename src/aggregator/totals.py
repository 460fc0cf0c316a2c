"""What calls add up to for the Prometheus counters: requests, credits, and how long they took. Pure.

Counted a batch at a time and by what the calls have in common, since telling a counter with labels of each call takes
longer than storing the call.
"""

from bisect import bisect_left
from collections import Counter
from itertools import repeat

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
        durations = [row.duration_us for row in part.rows]
        credits_micro = [row.credits_micro for row in part.rows]
        versions = [row.version for row in part.rows]
        numbers = part.dimensions.numbers
        duration_us, charged_micro = [0] * len(part.dimensions.distinct), [0] * len(part.dimensions.distinct)
        for number, version, duration, credits in zip(numbers, versions, durations, credits_micro, strict=True):
            if version == 1:
                duration_us[number] += duration
                if credits > 0:
                    charged_micro[number] += credits
        buckets = map(bisect_left, repeat(_BOUNDS_US), durations)
        for (number, version, bucket), calls in Counter(zip(numbers, versions, buckets, strict=False)).items():
            shared = part.dimensions.distinct[number]
            if version == 1 and shared.kind == "request":
                self.requests[shared.workspace, shared.product, shared.outcome] += calls
                self.durations[shared.product, bucket] += calls
        for shared, duration, credits in zip(part.dimensions.distinct, duration_us, charged_micro, strict=True):
            if shared.kind == "request":
                self.duration_us[shared.product] += duration
                self.credits_micro[shared.workspace, shared.product] += credits

    def include(self, others: "CallTotals") -> None:
        self.requests += others.requests
        self.credits_micro += others.credits_micro
        self.durations += others.durations
        self.duration_us += others.duration_us
