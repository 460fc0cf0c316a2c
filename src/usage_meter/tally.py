"""The live tally: credits and requests since the last look, for the top lists of the hour and the month.

One dictionary update per event. It is a view of now, not the books: it is added to Redis once, and when that fails it
is gone, because adding it twice would be worse. What a process had not sent when it was killed is missing as well.
"""

import threading
import time

from usage_meter import keys
from usage_meter.event import UsageEvent

HOUR_US = 3_600_000_000
MAX_COMBINATIONS = 10_000
"""Held between two looks: bounds memory while Redis is away. Further ones are not tallied (their events are kept)."""

Combination = tuple[int, str, str, str, str, str]  # hour since 1970, workspace, then as keys.LIVE_DIMENSIONS
Sums = dict[Combination, list[int]]  # as keys.LIVE_METRICS
Increments = dict[str, dict[str, int]]  # sorted set → member → by how much


class Tally:
    """`add` is called under the `lock` it was made with; `take` takes it."""

    __slots__ = ("_lock", "_sums")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._sums: Sums = {}

    def add(self, event: UsageEvent, replaces: UsageEvent | None = None) -> None:
        """Add a call. A correction (version above 1) adds what it changes, and nothing when that is not known."""
        if event.kind != "request" or (replaces is None and event.version > 1):
            return
        hour = event.started_us // HOUR_US
        combination = (hour, event.workspace, event.api_key, event.user, event.voice, event.product)
        sums = self._sums.get(combination)
        if sums is None:
            if len(self._sums) >= MAX_COMBINATIONS:
                return
            sums = self._sums[combination] = [0, 0]
        if replaces is None:
            sums[0] += event.credits_micro
            sums[1] += 1
        else:
            sums[0] += event.credits_micro - replaces.credits_micro

    def take(self) -> Sums:
        """What has come together since the last time."""
        with self._lock:
            sums, self._sums = self._sums, {}
        return sums


def increments(shard: int, sums: Sums) -> tuple[Increments, dict[str, int]]:
    """What to add to which sorted set, and the seconds that each set lives. Hours long past are left out."""
    amounts: Increments = {}
    lifetimes: dict[str, int] = {}
    now = time.time()
    for (hour, workspace, *values), totals in sums.items():
        for period, seconds in keys.LIVE_SECONDS.items():
            if not now - seconds < hour * 3600 <= now + 3600:
                continue
            name = keys.period_name(period, hour * 3600)
            for dimension, value in zip(keys.LIVE_DIMENSIONS, values, strict=True):
                for metric, amount in zip(keys.LIVE_METRICS, totals, strict=True):
                    if amount:
                        key = keys.live(shard, metric, dimension, name, workspace)
                        lifetimes[key] = seconds
                        members = amounts.setdefault(key, {})
                        members[value] = members.get(value, 0) + amount
    return amounts, lifetimes
