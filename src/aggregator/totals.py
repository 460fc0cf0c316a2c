"""What calls add up to for the Prometheus counters: requests, credits, and how long they took. Pure.

Counted a batch at a time, since telling a counter with labels of each call takes longer than storing the call.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection
from itertools import count, repeat

from usage_meter.event import MICRO, UsageEvent

# Seconds: from a cache hit to a long generation; a factor of two to two and a half apart, so that a quantile read
# from them is off by less than that.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BOUNDS_US = [round(bound * MICRO) for bound in LATENCY_BUCKETS]

Group = tuple[str, int, str, str, str]
"""Kind, version, workspace, product, outcome."""


class CallTotals:
    """Sums over incoming calls in their first version: a correction and a webhook are no further request."""

    def __init__(self, events: Collection[UsageEvent] = ()) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """By workspace, product and outcome."""
        self.credits_micro: Counter[tuple[str, str]] = Counter()
        """By workspace and product."""
        self.durations: Counter[tuple[str, int]] = Counter()
        """Calls by product and the number of their latency bucket; the last one is for all that took longer."""
        self.duration_us: Counter[str] = Counter()
        """By product."""
        self.add(events)

    def add(self, events: Collection[UsageEvent]) -> None:
        """Groups the events first: what follows then runs once per group, and not once per event."""
        numbers: defaultdict[Group, int] = defaultdict(count().__next__)
        rows = [numbers[e.kind, e.version, e.workspace, e.product, e.outcome] for e in events]
        durations = [event.duration_us for event in events]
        buckets = Counter(zip(rows, map(bisect_left, repeat(_BOUNDS_US), durations), strict=False))
        duration_us, credits_micro = [0] * len(numbers), [0] * len(numbers)
        for row, duration, credits in zip(rows, durations, [event.credits_micro for event in events], strict=True):
            duration_us[row] += duration
            credits_micro[row] += max(credits, 0)
        groups = list(numbers)
        for (row, bucket), calls in buckets.items():
            kind, version, workspace, product, outcome = groups[row]
            if kind == "request" and version == 1:
                self.requests[workspace, product, outcome] += calls
                self.durations[product, bucket] += calls
        for (kind, version, workspace, product, _), duration, credits in zip(
            groups, duration_us, credits_micro, strict=True
        ):
            if kind == "request" and version == 1:
                self.duration_us[product] += duration
                self.credits_micro[workspace, product] += credits

    def include(self, others: "CallTotals") -> None:
        self.requests += others.requests
        self.credits_micro += others.credits_micro
        self.durations += others.durations
        self.duration_us += others.duration_us
