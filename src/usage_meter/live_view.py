"""What Redis shows of now: the live tally and the calls in flight, and when a shard's are due."""

import time
from typing import Any

from usage_meter import keys
from usage_meter.inflight import InFlight
from usage_meter.tally import Sums, Tally, increments

TALLY_SECONDS = 1.0  # what comes together in a second goes together: each value costs some commands
INFLIGHT_CHANGE_SECONDS = 0.1  # a change is shown at the next flush, but a long queue's flushes come by the hundred
INFLIGHT_REFRESH_SECONDS = keys.INFLIGHT_SECONDS / 4  # three may be late before what a living process has ages out


class LiveView:
    """Used by the sending thread alone. Adds commands to a shard's transaction; what fails there is not added again."""

    def __init__(self, instance: str, shards: int, tally: Tally, inflight: InFlight) -> None:
        self._instance = instance
        self._shards = shards
        self._tally = tally
        self._inflight = inflight
        self._tallied = 0.0  # when the tally was last taken
        self._sums: dict[int, Sums] = {}  # taken, by shard
        self._shown: dict[int, tuple[float, int, bool]] = {}  # when, as of which change, and whether there were any
        self.hurry = False  # at the end nothing waits for its time

    def shards(self) -> list[int]:
        """Those that have anything to show, or have shown something."""
        if self.hurry or time.monotonic() - self._tallied >= TALLY_SECONDS:
            self._tallied = time.monotonic()
            for combination, sums in self._tally.take().items():
                self._sums.setdefault(self._shard_of(combination[1]), {})[combination] = sums
        in_flight = {self._shard_of(workspace) for workspace, _ in self._inflight.callers()}
        return sorted({*in_flight, *self._shown, *self._sums})

    def add_to(self, transaction: Any, shard: int) -> None:
        """What is due."""
        amounts, lifetimes = increments(shard, self._sums.pop(shard, {}))
        for key, members in amounts.items():
            for member, amount in members.items():
                transaction.execute_command("ZINCRBY", key, amount, member)
            transaction.execute_command("EXPIRE", key, lifetimes[key])
        now = time.monotonic()
        if self._inflight_is_due(shard, now):
            self._add_inflight(transaction, shard, now)

    def forget(self) -> None:
        """Redis may not have what it was shown: show it again."""
        self._shown = dict.fromkeys(self._shown, (0.0, -1, True))

    def _inflight_is_due(self, shard: int, now: float) -> bool:
        shown, changes, any_shown = self._shown.get(shard, (0.0, 0, False))
        if any_shown and now - shown >= INFLIGHT_REFRESH_SECONDS:
            return True
        return changes != self._inflight.changes and (self.hurry or now - shown >= INFLIGHT_CHANGE_SECONDS)

    def _add_inflight(self, transaction: Any, shard: int, now: float) -> None:
        changes = self._inflight.changes  # before the look: what changes in between is news again
        fields: list[bytes | int] = []
        for (workspace, api_key), calls in self._inflight.callers().items():
            if self._shard_of(workspace) == shard:
                fields += (keys.inflight_field(workspace, api_key), calls)
        key = keys.inflight(shard, self._instance)
        transaction.execute_command("DEL", key)
        if fields:
            transaction.execute_command("HSET", key, *fields)
            transaction.execute_command("EXPIRE", key, keys.INFLIGHT_SECONDS)
        self._shown[shard] = (now, changes, bool(fields))

    def _shard_of(self, workspace: str) -> int:
        return keys.shard_of(workspace, self._shards)
