"""What happens right now, straight from Redis, before any of it is stored: calls in flight, and the top lists.

Each process publishes its own in-flight counts with a lifetime; a process that died stops counting when that is over.
The top lists are kept while events are sent, so a slice that is sent twice counts twice in them: they are for looking,
`/v1/usage` is for billing.
"""

import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import cast

import redis

from aggregator.backlog import Backlog
from usage_meter import keys

Top = dict[str, dict[str, list[tuple[str, int]]]]
"""Metric → dimension → (value, amount), the greatest first; credits in micro-credits."""

READ = 1000  # of one sorted set: an app that changed its shards has a value in two of them


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
        """Calls in flight by `(workspace, API key id)`, over all living processes.

        All that are remembered are asked: what a dead one had is gone by itself, and clocks differ.
        """
        counts: Counter[tuple[str, str]] = Counter()
        instances = cast(list[bytes], self._redis.zrange(keys.INSTANCES, 0, -1))
        with self._redis.pipeline(transaction=False) as questions:
            for shard in self._backlog.shards():
                for instance in instances:
                    questions.hgetall(keys.inflight(shard, instance.decode()))
            answers = cast(list[dict[bytes, bytes]], questions.execute())
        for field, count in chain.from_iterable(answer.items() for answer in answers):
            counts[keys.inflight_caller(field)] += int(count)
        return counts

    def top(self, workspace: str, period: keys.Period, count: int) -> Top:
        """The greatest of the current hour or month (UTC), by metric and dimension."""
        name = keys.period_name(period, self._now())
        return {
            metric: {
                dimension: self._top(workspace, name, metric, dimension).most_common(count)
                for dimension in keys.LIVE_DIMENSIONS
            }
            for metric in keys.LIVE_METRICS
        }

    def _top(self, workspace: str, period: str, metric: str, dimension: str) -> Counter[str]:
        amounts: Counter[str] = Counter()
        for shard in self._backlog.shards():
            key = keys.live(shard, metric, dimension, period, workspace)
            found = cast(list[tuple[bytes, float]], self._redis.zrange(key, 0, READ - 1, desc=True, withscores=True))
            for value, amount in found:
                amounts[value.decode("utf-8", "replace")] += int(amount)
        return amounts

    def in_flight_by_workspace(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for (workspace, _), count in self.in_flight().items():
            counts[workspace] += count
        return counts
