"""Who of several aggregators does a piece of work that one is enough for: a key in Redis with a lifetime.

It saves work: two that compute at once do no harm, and without Redis everybody does (`held`). One that dies
loses its lease when the lifetime is over, and another goes on.
"""

import logging

import redis

logger = logging.getLogger(__name__)

SECONDS = 60  # longer than one step of the rollups takes, as a rule: it is renewed before each

# KEYS[1] the lease, ARGV[1] who asks, ARGV[2] milliseconds.
_TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class Lease:
    """`holder` names this process among all."""

    def __init__(self, client: "redis.Redis", key: str, holder: str, seconds: float = SECONDS) -> None:
        self._redis = client
        self._key = key
        self._holder = holder
        self._milliseconds = round(seconds * 1000)

    def held(self) -> bool:
        """Whether it is ours, for a lifetime from now; takes it where it is nobody's."""
        try:
            return self._take()
        except redis.RedisError as error:
            logger.warning("cannot tell who computes the rollups, so this process does: %s", error)
            return True

    def surely_held(self) -> bool:
        """The same for what two must not do at once: without Redis, nobody does it."""
        try:
            return self._take()
        except redis.RedisError:
            return False

    def _take(self) -> bool:
        return bool(self._redis.eval(_TAKE, 1, self._key, self._holder, str(self._milliseconds)))

    def release(self) -> None:
        """Let another go on at once. Where that fails, it waits for the lifetime."""
        try:
            self._redis.eval(_RELEASE, 1, self._key, self._holder)
        except redis.RedisError:
            logger.info("the lease %s is left to age out", self._key)
