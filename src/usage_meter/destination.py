"""The Redis (or Valkey) behind a URL: one node or a cluster, with explicit timeouts and no hidden retries.

A client that retried by itself would hold the sender for longer than it believes, and would send twice without
anybody's knowing. So every error comes up at once, and the sender decides.
"""

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from usage_meter import keys

CLIENT_NAME = "usage-meter"


class Destination:
    """Used by the sending thread alone."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._client: redis.Redis | None = None

    def node(self, shard: int) -> redis.Redis:
        """The client of the node that holds a shard's keys."""
        if self._client is None:
            self._client = redis.Redis.from_url(
                self._url,
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                client_name=CLIENT_NAME,
                retry=Retry(NoBackoff(), 0),
                protocol=2,  # the same answers from every server and client version
            )
        return self._client

    def server(self, shard: int) -> str:
        """The run id of the node that holds a shard: another one after a restart or a failover."""
        return str(self.node(shard).info("server")["run_id"])

    def announce(self, instance: str, shards: list[int], now: float, forget_before: float) -> None:
        """This process lives and writes to these shards; those not heard of since `forget_before` are gone."""
        pipeline = self.node(0).pipeline(transaction=False)
        pipeline.zadd(keys.INSTANCES, {instance: now})
        pipeline.zremrangebyscore(keys.INSTANCES, "-inf", forget_before)
        if shards:
            pipeline.sadd(keys.SHARDS, *shards)
        pipeline.execute()

    def farewell(self, instance: str) -> None:
        self.node(0).zrem(keys.INSTANCES, instance)

    def close(self) -> None:
        """Let go of all connections; the next use makes new ones."""
        if self._client is not None:
            self._client.close()
            self._client = None
