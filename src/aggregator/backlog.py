"""What waits in Redis: how much, since when, and what could not be read.

The consumer removes an entry once it is stored, so the oldest entry of a stream is the oldest thing that is missing
from the store. Up to that moment every answer is complete.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import redis

from usage_meter import keys

_SHARDS_SECONDS = 5.0  # how long a new shard of an app may go unnoticed


class Backlog:
    """Reads the streams' state. Redis errors pass to the caller, except from `complete_until_us`."""

    def __init__(self, client: "redis.Redis", now: Callable[[], float] = time.time) -> None:
        self._redis = client
        self._now = now
        self._shards: list[int] = [0]
        self._shards_read = -_SHARDS_SECONDS
        self._complete_until_us = 0

    def shards(self) -> list[int]:
        """The shards that apps write to, found again every few seconds; shard 0 is always one."""
        if time.monotonic() - self._shards_read >= _SHARDS_SECONDS:
            members = cast(Iterable[bytes], self._redis.smembers(keys.SHARDS))
            known = {int(member) for member in members if member.isdigit() and int(member) < keys.MAX_SHARDS}
            self._shards = sorted({0} | known)
            self._shards_read = time.monotonic()
        return self._shards

    def oldest_us(self) -> int | None:
        """When the oldest entry that is not stored yet came to Redis (UTC microseconds); None when nothing waits."""
        moments = []
        for shard in self.shards():
            for id, _ in cast(list[tuple[bytes, Any]], self._redis.xrange(keys.events(shard), count=1)):
                moments.append(int(id.split(b"-")[0]) * 1000)
        return min(moments, default=None)

    def complete_until_us(self) -> int:
        """Every call that had reached Redis by then is in the store. Stands still while Redis is away."""
        now_us = int(self._now() * 1_000_000)
        try:
            oldest = self.oldest_us()
        except redis.RedisError:
            return self._complete_until_us
        self._complete_until_us = now_us if oldest is None else min(now_us, oldest)
        return self._complete_until_us

    def age_seconds(self) -> float:
        """Since when the oldest entry waits; 0 when nothing does."""
        oldest = self.oldest_us()
        return 0.0 if oldest is None else max(0.0, self._now() - oldest / 1_000_000)

    def entries(self) -> int:
        return sum(int(self._redis.xlen(keys.events(shard))) for shard in self.shards())

    def dead_entries(self) -> int:
        return sum(int(self._redis.xlen(keys.dead(shard))) for shard in self.shards())
