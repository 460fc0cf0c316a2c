"""The live tally: credits and requests since the last look, for the top lists of the hour and the month.

A call's thread only notes who called and for how much; the sending thread counts what is alike in one go. It is a view
of now, not the books: it is added to Redis once, and when that fails it is gone, because adding it twice would be
worse. What a process had not sent when it was killed is missing as well.
"""

import threading
import time
from collections import Counter, deque
from itertools import islice

from usage_meter import keys
from usage_meter.event import UsageEvent

HOUR_US = 3_600_000_000
MAX_COMBINATIONS = 10_000
"""Held between two looks: bounds memory while Redis is away. Further ones are not tallied (their events are kept)."""

MAX_CALLS = 10_000
"""Noted between two countings: ten times what a busy process notes between two flushes. While Redis is away they are
up to two seconds apart; of more, the oldest go."""

Facts = tuple[str, int, int, str, str, str, str, str]  # kind, version, micro-credits, then as a Combination
Combination = tuple[int, str, str, str, str, str]  # hour since 1970, workspace, then as keys.LIVE_DIMENSIONS
Sums = dict[Combination, list[int]]  # as keys.LIVE_METRICS
Increase = dict[str, list[int | str]]  # sorted set → its lifetime in seconds, then member, increment, member, …


class Tally:
    """`add` is called under the `lock` it was made with; the rest is for the sending thread."""

    __slots__ = ("_calls", "_hour_us", "_lock", "_others", "_sums")

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._hour_us = _this_hour_us()
        self._calls: deque[Facts] = deque(maxlen=MAX_CALLS)  # of this hour
        self._others: deque[tuple[int, Facts, int, int]] = deque(maxlen=MAX_CALLS)  # with start, credits and requests
        self._sums: Sums = {}

    def add(self, event: UsageEvent, replaces: UsageEvent | None = None) -> None:
        """Note a call. A correction (version above 1) adds what it changes, and nothing when that is not known."""
        said = event if replaces is None else replaces
        # Written out, in the order of LIVE_DIMENSIONS: that takes a third of what `attrgetter` does.
        facts = (said.kind, said.version, said.credits_micro, said.workspace,
                 said.api_key, said.user, said.voice, said.product)  # fmt: skip
        if replaces is not None:
            self._others.append((event.started_us, facts, event.credits_micro - replaces.credits_micro, 0))
        elif self._hour_us <= event.started_us < self._hour_us + HOUR_US:
            self._calls.append(facts)
        else:
            self._others.append((event.started_us, facts, event.credits_micro, 1))

    def count(self) -> None:
        """Sum up what was noted."""
        with self._lock:
            calls, self._calls = self._calls, deque(maxlen=MAX_CALLS)
            others, self._others = self._others, deque(maxlen=MAX_CALLS)
            hour, self._hour_us = self._hour_us // HOUR_US, _this_hour_us()
        for facts, number in Counter(calls).items():
            if facts[1] == 1:
                self._sum(hour, facts, facts[2] * number, number)
        for started_us, facts, credits, number in others:
            if facts[1] == 1 or not number:
                self._sum(started_us // HOUR_US, facts, credits, number)

    def take(self) -> Sums:
        """What has come together since the last time."""
        self.count()
        sums, self._sums = self._sums, {}
        return sums

    def _sum(self, hour: int, facts: Facts, credits: int, requests: int) -> None:
        kind, _, _, workspace, api_key, user, voice, product = facts
        if kind != "request":
            return
        key = (hour, workspace, api_key, user, voice, product)
        sums = self._sums.get(key)
        if sums is None:
            if len(self._sums) >= MAX_COMBINATIONS:
                return
            sums = self._sums[key] = [0, 0]
        sums[0] += credits
        sums[1] += requests


def _this_hour_us() -> int:
    return time.time_ns() // 1000 // HOUR_US * HOUR_US


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
