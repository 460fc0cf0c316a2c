"""What happens right now, straight from Redis: calls in flight, by workspace and API key.

Each process publishes its own counts with a lifetime; a process that died stops counting when that is over.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import cast

import redis

from aggregator.backlog import Backlog
from usage_meter import keys


class Live:
    """Redis errors pass to the caller."""

    def __init__(self, client: "redis.Redis", backlog: Backlog, now: Callable[[], float] = time.time) -> None:
        self._redis = client
        self._backlog = backlog
        self._now = now

    def instances(self) -> list[str]:
        """The processes that gave a sign of life within the counters' lifetime."""
        oldest = self._now() - keys.INFLIGHT_SECONDS
        return [name.decode() for name in cast(list[bytes], self._redis.zrangebyscore(keys.INSTANCES, oldest, "+inf"))]

    def in_flight(self) -> Counter[tuple[str, str]]:
        """Calls in flight by `(workspace, API key id)`, over all living processes."""
        counts: Counter[tuple[str, str]] = Counter()
        for shard in self._backlog.shards():
            for instance in self.instances():
                fields = cast(dict[bytes, bytes], self._redis.hgetall(keys.inflight(shard, instance)))
                for field, count in fields.items():
                    counts[keys.inflight_caller(field)] += int(count)
        return counts

    def in_flight_by_workspace(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for (workspace, _), count in self.in_flight().items():
            counts[workspace] += count
        return counts
