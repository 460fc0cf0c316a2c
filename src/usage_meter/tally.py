"""The live tallies: credits and requests since the last flush, for the top lists of the hour and the month.

One dictionary update per event. They are a view of now, not the books: they are added to Redis once, at the flush
after a second has passed, and when that flush fails they are gone, because adding them twice would be worse.
"""

import threading
import time

from usage_meter import keys
from usage_meter.event import UsageEvent

HOUR_US = 3_600_000_000
MAX_CALLERS = 10_000
"""Distinct combinations held between two flushes: bounds memory while Redis is away; new ones then go untallied."""

Combination = tuple[int, str, str, str, str, str]  # hour since 1970, workspace, then as LIVE_DIMENSIONS
Increments = dict[str, dict[str, int]]  # sorted set → member → by how much


class Tally:
    """Not thread-safe: the caller holds a lock around `add` and around the exchange for a fresh one."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[Combination, list[int]] = {}

    def add(self, event: UsageEvent, replaces: UsageEvent | None = None) -> None:
        """Add a call. A correction (version above 1) adds what it changes, and nothing when that is not known."""
        if event.kind != "request" or (event.version > 1 and replaces is None):
            return
        combination = (
            event.started_us // HOUR_US,
            event.workspace,
            event.api_key,
            event.user,
            event.voice,
            event.product,
        )
        sums = self._sums.get(combination)
        if sums is None:
            if len(self._sums) >= MAX_CALLERS:
                return
            sums = self._sums[combination] = [0, 0]
        if replaces is None:
            sums[0] += event.credits_micro
            sums[1] += 1
        else:
            sums[0] += event.credits_micro - replaces.credits_micro

    def increments(self, shard: int) -> tuple[Increments, dict[str, int]]:
        """What to add to which sorted set, and the seconds that each set lives. Hours long past are left out."""
        increments: Increments = {}
        lifetimes: dict[str, int] = {}
        now = time.time()
        for (hour, workspace, *values), sums in self._sums.items():
            for period, seconds in keys.LIVE_SECONDS.items():
                if not now - seconds < hour * 3600 <= now + 3600:
                    continue
                name = keys.period_name(period, hour * 3600)
                for dimension, value in zip(keys.LIVE_DIMENSIONS, values, strict=True):
                    for metric, amount in zip(keys.LIVE_METRICS, sums, strict=True):
                        if amount:
                            key = keys.live(shard, metric, dimension, name, workspace)
                            lifetimes[key] = seconds
                            members = increments.setdefault(key, {})
                            members[value] = members.get(value, 0) + amount
        return increments, lifetimes


class Tallies:
    """One tally per shard. `add` is called under the `lock` it was made with; the others take it."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._by_shard: dict[int, Tally] = {}

    def add(self, shard: int, event: UsageEvent, replaces: UsageEvent | None) -> None:
        tally = self._by_shard.get(shard)
        if tally is None:
            tally = self._by_shard[shard] = Tally()
        tally.add(event, replaces)

    def shards(self) -> list[int]:
        """The shards that have something."""
        with self._lock:
            return list(self._by_shard)

    def take(self, shard: int) -> Tally:
        """What has come together since the last time."""
        with self._lock:
            return self._by_shard.pop(shard, Tally())
