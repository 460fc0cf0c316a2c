"""The Redis (or Valkey) behind a URL: one node or a cluster, with explicit timeouts and no hidden retries.

A client that retries by itself holds the sender for longer than it believes, and sends twice without anybody's
knowing. So every error comes up at once, and the sender decides.
"""

from typing import Any

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.retry import Retry

from usage_meter import keys
from usage_meter.tally import Increase

encode = msgspec.msgpack.Encoder().encode

CLIENT_NAME = "usage-meter"
ERRORS = (RedisError, RedisClusterException, OSError)
"""Whatever means that Redis, or the way to it, will not have it now."""

StreamId = tuple[int, int]

INCREASE = """
local failed = false
for i, key in ipairs(KEYS) do
  local part = cmsgpack.unpack(ARGV[i])
  for j = 2, #part, 2 do
    local answer = redis.pcall('ZINCRBY', key, part[j + 1], part[j])
    if type(answer) == 'table' and answer.err then failed = answer.err end
  end
  redis.pcall('EXPIRE', key, part[1])
end
return failed
"""
"""A script because a busy process has thousands of these a second: one by one, each would cost the client as much as
a whole event. What of it fails (somebody else's value under a key) does not stop the rest, and is returned."""


class Destination:
    """Used by the sending thread alone."""

    def __init__(self, url: str, timeout: float) -> None:
        scheme, _, rest = url.partition("://")
        self._url = f"{scheme.removesuffix('+cluster')}://{rest}"
        self._cluster = scheme.endswith("+cluster")
        self._timeout = timeout
        self._client: Any = None

    def transaction(self, shard: int) -> Any:
        """A MULTI/EXEC on the node that holds a shard's keys."""
        return self._node(keys.events(shard)).pipeline(transaction=True)

    def server(self, shard: int) -> str:
        """The run id of the node that holds a shard: another one after a restart or a failover. "" if it won't say."""
        try:
            return str(self._node(keys.events(shard)).info("server")["run_id"])
        except (ResponseError, KeyError):
            return ""

    def last_id(self, shard: int) -> StreamId | None:
        """The last id that a shard's stream has given; (0, 0) where there is no stream, None if it may not be asked."""
        try:
            answer = self._node(keys.events(shard)).xinfo_stream(keys.events(shard))
        except ResponseError as error:
            return (0, 0) if "no such key" in str(error) else None
        return stream_id(answer["last-generated-id"])

    def increase(self, shard: int, increase: Increase) -> str | None:
        """Increase a shard's sorted sets. What went wrong with one of them, in Redis's words."""
        parts = [encode(part) for part in increase.values()]
        answer = self._node(keys.events(shard)).eval(INCREASE, len(increase), *increase, *parts)
        return None if answer is None else str(answer)

    def announce(self, instance: str, shards: list[int], now: float, forget_before: float) -> None:
        """This process lives and writes to these shards; those not heard of since `forget_before` are gone."""
        instances = self._node(keys.INSTANCES).pipeline(transaction=False)
        instances.zadd(keys.INSTANCES, {instance: now})
        instances.zremrangebyscore(keys.INSTANCES, "-inf", forget_before)
        instances.execute()
        if shards:
            self._node(keys.SHARDS).sadd(keys.SHARDS, *shards)

    def farewell(self, instance: str, shards: list[int]) -> None:
        """This process records no longer, and has nothing in flight."""
        for shard in shards:
            self._node(keys.events(shard)).delete(keys.inflight(shard, instance))
        self._node(keys.INSTANCES).zrem(keys.INSTANCES, instance)

    def close(self) -> None:
        """Let go of all connections, and of what is known of a cluster; the next use begins anew."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _node(self, key: str) -> Any:
        if self._client is None:
            self._client = self._connect()
        if self._cluster:
            return self._client.get_redis_connection(self._client.get_node_from_key(key))
        return self._client

    def _connect(self) -> Any:
        options: dict[str, Any] = {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "client_name": CLIENT_NAME,
            "protocol": 2,  # the same answers from every server and client version
        }
        if self._cluster:  # its nodes' connections never retry; the parameter is for commands that we do not use
            return RedisCluster.from_url(self._url, require_full_coverage=False, **options)
        return redis.Redis.from_url(self._url, retry=Retry(NoBackoff(), 0), **options)


def stream_id(text: bytes | str) -> StreamId:
    milliseconds, _, sequence = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(milliseconds), int(sequence)
