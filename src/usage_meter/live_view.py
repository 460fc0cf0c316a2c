"""What Redis shows of now: the live tally and the calls in flight, and when a shard's are due."""

import time
from typing import Any

from usage_meter import keys
from usage_meter.inflight import Callers, Calls, callers_of
from usage_meter.tally import Increase, Increments, Tally

FLUSH_SECONDS = 0.1  # what a live view may lag behind; fewer, larger entries cost Redis and the reader less
TALLY_SECONDS = 1.0  # what comes together in a second goes together
TALLY_VALUES = 500  # in one flush: a millisecond or two of the interpreter, which calls may be waiting for
INFLIGHT_REFRESH_SECONDS = keys.INFLIGHT_SECONDS / 4  # three may be late before what a living process has ages out


class LiveView:
    """Used by the sending thread alone. What it has handed out is not handed out again, whatever becomes of it."""

    def __init__(self, instance: str, shards: int, tally: Tally, in_flight: Calls) -> None:
        self._instance = instance
        self._shards = shards
        self._tally = tally
        self._in_flight = in_flight
        self._tallied = 0.0  # when the tally was last taken
        self._increments: dict[int, Increments] = {}  # what was taken, by shard
        self._increased: dict[int, float] = {}  # when some of it was last sent
        self._shown: dict[int, tuple[float, Callers | None]] = {}  # when, and what; None: Redis may not have it
        self.hurry = False  # at the end nothing waits for its time

    def shards(self) -> list[int]:
        """Those that have anything to show, or have shown something."""
        self._take_tally()
        in_flight = {self._shard_of(workspace) for workspace, _ in callers_of(self._in_flight)}
        return sorted({*in_flight, *self._shown, *(shard for shard, waiting in self._increments.items() if waiting)})

    def add_to(self, transaction: Any, shard: int) -> None:
        """The calls in flight, if they are due."""
        now = time.monotonic()
        when, shown = self._shown.get(shard, (0.0, {}))
        if not self.hurry and now - when < FLUSH_SECONDS:
            return
        callers = self._callers(shard)
        if callers != shown or (callers and now - when >= INFLIGHT_REFRESH_SECONDS):
            self._show(transaction, shard, callers)
            self._shown[shard] = (now, callers)

    def increase(self, shard: int) -> Increase:
        """What the sorted sets are to be increased by, if that is due; nothing more for a while then."""
        increments = self._increments.get(shard)
        now = time.monotonic()
        if not increments or (not self.hurry and now - self._increased.get(shard, 0.0) < FLUSH_SECONDS):
            return {}
        self._increased[shard] = now
        return increments.take(TALLY_VALUES)

    def forget(self) -> None:
        """Redis is away, and may not have what it was shown: show it again. What was noted meanwhile is counted."""
        self._tally.count()
        self._shown = dict.fromkeys(self._shown, (0.0, None))

    def _take_tally(self) -> None:
        self._tally.count()
        if self.hurry or time.monotonic() - self._tallied >= TALLY_SECONDS:
            self._tallied = time.monotonic()
            for combination, sums in self._tally.take().items():
                shard = self._shard_of(combination[1])
                self._increments.setdefault(shard, Increments(shard)).add(combination, sums)

    def _callers(self, shard: int) -> Callers:
        callers = callers_of(self._in_flight)
        return Callers({caller: calls for caller, calls in callers.items() if self._shard_of(caller[0]) == shard})

    def _show(self, transaction: Any, shard: int, callers: Callers) -> None:
        key = keys.inflight(shard, self._instance)
        transaction.execute_command("DEL", key)
        if callers:
            fields: list[bytes | int] = []
            for (workspace, api_key), calls in callers.items():
                fields += (keys.inflight_field(workspace, api_key), calls)
            transaction.execute_command("HSET", key, *fields)
            transaction.execute_command("EXPIRE", key, keys.INFLIGHT_SECONDS)

    def _shard_of(self, workspace: str) -> int:
        return keys.shard_of(workspace, self._shards)
