"""What Redis shows of now: the live tallies and the calls in flight, and when a shard's are due."""

import time
from typing import Any

from usage_meter import keys
from usage_meter.inflight import InFlight
from usage_meter.tally import Tallies

TALLY_SECONDS = 1.0  # the tallies of a second go together: each value costs some commands, and not per flush
INFLIGHT_CHANGE_SECONDS = 0.1  # a change is shown at the next flush, but a long queue's flushes come by the hundred
INFLIGHT_REFRESH_SECONDS = keys.INFLIGHT_SECONDS / 4  # three may be late before what a living process has ages out


class LiveView:
    """Used by the sending thread alone. Adds commands to a shard's transaction; what fails there is not added twice."""

    def __init__(self, instance: str, shards: int, tallies: Tallies, inflight: InFlight) -> None:
        self._instance = instance
        self._shards = shards
        self._tallies = tallies
        self._inflight = inflight
        self._tallied: dict[int, float] = {}  # when a shard's tallies were last sent
        self._shown: dict[int, tuple[float, int, bool]] = {}  # when, as of which change, and whether there were any
        self.hurry = False  # at the end nothing waits for its time

    def shards(self) -> list[int]:
        """Those that have anything to show, or have shown something."""
        shards = {keys.shard_of(workspace, self._shards) for workspace, _ in self._inflight.callers()}
        return sorted({*shards, *self._shown, *self._tallies.shards()})

    def add_to(self, transaction: Any, shard: int) -> None:
        """What is due."""
        now = time.monotonic()
        if self.hurry or now - self._tallied.get(shard, 0.0) >= TALLY_SECONDS:
            self._tallied[shard] = now
            self._add_tally(transaction, shard)
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

    def _add_tally(self, transaction: Any, shard: int) -> None:
        increments, lifetimes = self._tallies.take(shard).increments(shard)
        for key, members in increments.items():
            for member, amount in members.items():
                transaction.execute_command("ZINCRBY", key, amount, member)
            transaction.execute_command("EXPIRE", key, lifetimes[key])

    def _add_inflight(self, transaction: Any, shard: int, now: float) -> None:
        changes = self._inflight.changes  # before the look: what changes in between is news again
        fields: list[bytes | int] = []
        for (workspace, api_key), calls in self._inflight.callers().items():
            if keys.shard_of(workspace, self._shards) == shard:
                fields += (keys.inflight_field(workspace, api_key), calls)
        key = keys.inflight(shard, self._instance)
        transaction.execute_command("DEL", key)
        if fields:
            transaction.execute_command("HSET", key, *fields)
            transaction.execute_command("EXPIRE", key, keys.INFLIGHT_SECONDS)
        self._shown[shard] = (now, changes, bool(fields))
