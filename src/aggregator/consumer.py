"""Moves events from Redis into the store: at least once, idempotent by event id.

The order of effects is the whole promise. (1) Entries are delivered to this consumer and stay pending until they are
acknowledged. (2) What cannot be decoded goes to the dead-letter stream. (3) The rest is inserted; the insert returns
when it is stored. (4) Only then are the entries acknowledged and removed. Dying after any step repeats the steps
before it, and a repeated event has the key that it had, so it changes nothing.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import redis

from aggregator.backlog import Backlog
from aggregator.errors import RejectedError, StoreError
from usage_meter import keys
from usage_meter.event import FORMAT_VERSION, UsageEvent, UsageEventError, concatenated, pack, unpack

logger = logging.getLogger(__name__)

ENTRIES = 256  # read at once: a few large inserts instead of many small ones, whose fixed costs rule
EVENTS = 100_000  # in one insert: some 30 MB as objects, which bounds the memory while a backlog drains
BLOCK_MS = 200  # one read waits this long for news; also how late a stop is noticed
PAUSE_SECONDS = 0.05  # between looks at several shards, which cannot be waited for in one command on a cluster
CLAIM_SECONDS = 10.0  # how often to look for entries that a dead consumer left pending
CLAIM_ENTRIES = 32  # at once: their payloads come along
CLAIM_IDLE_MS = 60_000  # longer than any insert takes: a living consumer's entries are not taken from it
RETRY_SECONDS = (0.1, 0.5, 2.0, 5.0)  # after errors in a row; then the last
FUTURE_US = 86_400 * 1_000_000  # a call further ahead than a day is a broken clock, not a call

Entry = tuple[bytes, dict[bytes, bytes] | None]


class EventStore(Protocol):
    def insert(self, events: Sequence[UsageEvent]) -> None: ...


@dataclass
class ConsumerStatistics:
    """Counts since the start of this process."""

    events: int = 0
    entries: int = 0
    dead: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def count_error(self, kind: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1


@dataclass
class _Batch:
    """What one read brought: whose entries they are, their events, and what must be dead-lettered."""

    shard: int
    ids: list[bytes] = field(default_factory=list)
    events: list[UsageEvent] = field(default_factory=list)
    dead: list[tuple[dict[bytes, bytes], str]] = field(default_factory=list)

    def add(self, entry: Entry, latest_us: int) -> None:
        id, fields = entry
        self.ids.append(id)
        if fields is None:  # removed while it was pending: somebody else has stored it
            return
        try:
            events = _events(fields)
        except UsageEventError as error:
            self.dead.append((fields, str(error)))
            return
        self.events += [event for event in events if event.started_us <= latest_us]
        if ahead := [event for event in events if event.started_us > latest_us]:
            self.dead.append((_fields(ahead), "starts more than a day in the future"))


class Consumer:
    """Reads every shard in turn. `exclusive` says that no other consumer can be alive (an embedded store)."""

    def __init__(
        self,
        client: "redis.Redis",
        store: EventStore,
        backlog: Backlog,
        *,
        name: str,
        exclusive: bool = False,
    ) -> None:
        self._redis = client
        self._store = store
        self._backlog = backlog
        self._name = name
        self._exclusive = exclusive
        self._observers: list[Callable[[Sequence[UsageEvent]], None]] = []
        self._groups: set[int] = set()
        self._pending: set[int] = set()
        self._claimed_at = float("-inf")
        self.statistics = ConsumerStatistics()

    def on_stored(self, observe: Callable[[Sequence[UsageEvent]], None]) -> None:
        """Have `observe` called with the events of each batch once they are stored and acknowledged."""
        self._observers.append(observe)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; finishes the batch in hand. No error ends it."""
        failures = 0
        while not stop.is_set():
            try:
                moved = self.step()
                failures = 0
            except (redis.RedisError, StoreError) as error:
                stop.wait(self._failed(error, failures))
                failures += 1
                continue
            if not moved and len(self._groups) > 1:
                stop.wait(PAUSE_SECONDS)

    def step(self) -> int:
        """One read of every shard, stored and acknowledged; returns the number of entries. Raises on failure."""
        shards = self._backlog.shards()
        for shard in shards:
            if shard not in self._groups:
                self._join(shard)
        self._claim(shards)
        return sum(self._move(shard, block=len(shards) == 1) for shard in shards)

    def _move(self, shard: int, *, block: bool) -> int:
        """One read of a shard: own entries that are still pending first, then news."""
        try:
            entries = self._read(shard, block=block)
            batch = _Batch(shard)
            for entry in entries:
                batch.add(entry, time.time_ns() // 1000 + FUTURE_US)
                if len(batch.events) >= EVENTS:
                    self._keep(batch)
                    batch = _Batch(shard)
            self._keep(batch)
        except Exception:
            self._pending.add(shard)  # whatever was delivered and not acknowledged is read again
            raise
        return len(entries)

    def _keep(self, batch: _Batch) -> None:
        """Steps 2 to 4 of the promise above, in this order."""
        if not batch.ids:
            return
        stored = self._insert(batch, batch.events)
        events_key, dead_key = keys.events(batch.shard), keys.dead(batch.shard)
        with self._redis.pipeline(transaction=True) as transaction:
            for fields, reason in batch.dead:
                transaction.xadd(dead_key, {**fields, b"reason": reason.encode()})  # type: ignore[dict-item]
            transaction.xack(events_key, keys.GROUP, *batch.ids)
            transaction.xdel(events_key, *batch.ids)
            transaction.execute()
        self._count(batch, stored)

    def _insert(self, batch: _Batch, events: list[UsageEvent]) -> list[UsageEvent]:
        """Stores the events; those that the store refuses for what they hold are found by halving and dead-lettered."""
        try:
            self._store.insert(events)
        except RejectedError as error:
            if len(events) > 1:
                middle = len(events) // 2
                return self._insert(batch, events[:middle]) + self._insert(batch, events[middle:])
            batch.dead.append((_fields(events), f"the store refuses it: {error}"))
            return []
        return events

    def _read(self, shard: int, *, block: bool) -> list[Entry]:
        pending = shard in self._pending
        found = self._redis.xreadgroup(
            keys.GROUP,
            self._name,
            {keys.events(shard): "0" if pending else ">"},
            count=ENTRIES,
            block=BLOCK_MS if block and not pending else None,
        )
        entries = _entries(found)
        if pending and not entries:
            self._pending.discard(shard)
        return entries

    def _join(self, shard: int) -> None:
        """Make sure of the group; whatever an earlier process of this name left pending is read first."""
        try:
            self._redis.xgroup_create(keys.events(shard), keys.GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._groups.add(shard)
        self._pending.add(shard)

    def _claim(self, shards: Sequence[int]) -> None:
        """Take over what dead consumers left pending. An embedded store has no other living consumer to wait for."""
        if time.monotonic() - self._claimed_at < CLAIM_SECONDS:
            return
        idle_ms = 0 if self._exclusive and self._claimed_at < 0 else CLAIM_IDLE_MS
        for shard in shards:
            start = b"0-0"
            while True:
                # Servers differ in the reply's length. What it claimed is read again with the other pending entries.
                start, claimed, *_ = self._redis.xautoclaim(
                    keys.events(shard), keys.GROUP, self._name, idle_ms, start_id=start, count=CLAIM_ENTRIES
                )
                if claimed:
                    self._pending.add(shard)
                if start == b"0-0":
                    break
        self._claimed_at = time.monotonic()

    def _count(self, batch: _Batch, stored: Sequence[UsageEvent]) -> None:
        self.statistics.entries += len(batch.ids)
        self.statistics.events += len(stored)
        self.statistics.dead += len(batch.dead)
        for _, reason in batch.dead:
            logger.error("dead-lettered an entry of %s: %s", keys.events(batch.shard), reason)
        for observe in self._observers:
            observe(stored)

    def _failed(self, error: Exception, failures: int) -> float:
        """Counts and says it, once per row of failures; returns the seconds to wait."""
        if str(error).startswith("NOGROUP"):  # Redis came back empty: join again
            self._groups.clear()
        self.statistics.count_error("redis" if isinstance(error, redis.RedisError) else "store")
        if failures == 0:
            logger.warning("the consumer waits: %s", error)
        return RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]


def _events(fields: dict[bytes, bytes]) -> list[UsageEvent]:
    """The events of an entry. Raises UsageEventError."""
    try:
        version, count, payload = int(fields[b"v"]), int(fields[b"n"]), fields[b"b"]
    except (KeyError, ValueError):
        raise UsageEventError("the entry must have the fields v and n, whole numbers, and b") from None
    if version != FORMAT_VERSION:
        raise UsageEventError(
            f"the entry's format is {version}: this aggregator reads {FORMAT_VERSION}; it needs an update"
        )
    return unpack(payload, count)


def _fields(events: Sequence[UsageEvent]) -> dict[bytes, bytes]:
    """Events as an entry's fields: the form in which a dead letter can be sent again."""
    return {b"v": b"%d" % FORMAT_VERSION, b"n": b"%d" % len(events), b"b": pack(concatenated(events))}


def _entries(reply: Any) -> list[Entry]:
    """The entries of one stream from XREADGROUP's reply, which is a list (RESP2) or a mapping (RESP3)."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (per_stream,) = next(iter(reply.values()))
    else:
        per_stream = reply[0][1]
    return [(id, fields or None) for id, fields in per_stream]
