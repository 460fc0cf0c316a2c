"""The live tally: credits and requests since the last look, for the top lists of the hour and the month.

One dictionary update per event. It is a view of now, not the books: it is added to Redis once, and when that fails it
is gone, because adding it twice would be worse. What a process had not sent when it was killed is missing as well.
"""

import threading
import time
from itertools import islice

from usage_meter import keys
from usage_meter.event import UsageEvent

HOUR_US = 3_600_000_000
MAX_COMBINATIONS = 10_000
"""Held between two looks: bounds memory while Redis is away. Further ones are not tallied (their events are kept)."""

Combination = tuple[int, str, str, str, str, str]  # hour since 1970, workspace, then as keys.LIVE_DIMENSIONS
Sums = dict[Combination, list[int]]  # as keys.LIVE_METRICS
Increase = dict[str, list[int | str]]  # sorted set → its lifetime in seconds, then member, increment, member, …


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


class Increments:
    """What a shard's sorted sets are still to be increased by. Of a value that waits, further sums come on top."""

    def __init__(self, shard: int) -> None:
        self._shard = shard
        self._waiting: dict[tuple[int, str, str, str], list[int]] = {}  # hour, workspace, dimension, value

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, combination: Combination, sums: list[int]) -> None:
        hour, workspace, *values = combination
        for dimension, value in zip(keys.LIVE_DIMENSIONS, values, strict=True):
            waiting = self._waiting.setdefault((hour, workspace, dimension, value), [0, 0])
            waiting[0] += sums[0]
            waiting[1] += sums[1]

    def take(self, most: int) -> Increase:
        """Of at most so many values. Hours that are long past are left out."""
        increase: Increase = {}
        periods: dict[int, list[tuple[str, int]]] = {}
        for entry in list(islice(self._waiting, most)):
            hour, workspace, dimension, value = entry
            totals = self._waiting.pop(entry)
            for name, seconds in periods.get(hour) or periods.setdefault(hour, current_periods(hour)):
                for metric, amount in zip(keys.LIVE_METRICS, totals, strict=True):
                    if amount:
                        key = keys.live(self._shard, metric, dimension, name, workspace)
                        increase.setdefault(key, [seconds]).extend((value, amount))
        return increase


def current_periods(hour: int) -> list[tuple[str, int]]:
    """The periods that an hour belongs to and that have not long passed: their names and lifetimes."""
    now = time.time()
    return [
        (keys.period_name(period, hour * 3600), seconds)
        for period, seconds in keys.LIVE_SECONDS.items()
        if now - seconds < hour * 3600 <= now + 3600
    ]
