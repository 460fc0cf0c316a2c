"""Moves events from Redis into the store: at least once, idempotent by event id.

The order of effects is the whole promise. (1) Entries are delivered to this consumer and stay pending until they are
acknowledged. (2) They are decoded. (3) The events are inserted; the insert returns when they are stored. (4) Only then
are the entries acknowledged and removed, and what could not be read or stored is put into the dead-letter stream, all
in one transaction. Dying after any step repeats the steps before it, and a repeated event has the key that it had, so
it changes nothing.

While one batch is inserted, which is the engine's work, the next is read and decoded, which is Python's.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import redis

from aggregator.backlog import Backlog
from aggregator.batch import REJECTED, Batch, Delivered, Load
from aggregator.errors import RejectedError, StoreError
from aggregator.ledger import Ledger, Settled, events_of
from aggregator.retention import Retention
from aggregator.rows import Rows
from aggregator.totals import CallTotals
from usage_meter import keys
from usage_meter.event import EventRow, encode_row

logger = logging.getLogger(__name__)

ENTRIES = 32  # read at once: they wait in memory, deflated, until a batch takes them
PAUSE_SECONDS = (
    0.2  # between batches that are not full: fewer, larger parts in the store; a call is seen that much later
)
CLAIM_SECONDS = 10.0  # how often to look for entries that a dead consumer left pending
CLAIM_IDLE_MS = 60_000  # longer than any insert takes: a living consumer's entries are not taken from it
FORGET_IDLE_MS = 3_600_000  # a consumer that did nothing for so long, and owes nothing, is gone for good
RETRY_SECONDS = (0.1, 0.5, 2.0)  # after errors in a row; then the last, so that what is back is soon seen

# KEYS[1] a stream, ARGV[1] its group, ARGV[2] milliseconds. In one step, since deleting a consumer forgets what is
# pending for it, and one that seemed gone may just have been delivered something.
FORGET_CONSUMERS = """
for _, found in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local facts = {}
    for position = 1, #found, 2 do facts[found[position]] = found[position + 1] end
    if facts['pending'] == 0 and facts['idle'] > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], facts['name'])
    end
end
"""


Table = Literal["events", "unsealed"]


class EventStore(Protocol):
    def load(self, blocks: bytes, table: Table = "events") -> None: ...


@dataclass
class ConsumerStatistics:
    """Counts since the start of this process."""

    events: int = 0
    entries: int = 0
    dead: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    """Events that were dead-lettered, by the reason in a word (batch.py). One that says no number counts as one."""
    errors: dict[str, int] = field(default_factory=dict)

    def count_error(self, kind: str) -> None:
        self.errors[kind] = self.errors.get(kind, 0) + 1


class Consumer:
    """Reads all shards in turn. `exclusive` says that no other consumer can be alive (an embedded store)."""

    def __init__(
        self,
        client: "redis.Redis",
        store: EventStore,
        backlog: Backlog,
        *,
        name: str,
        exclusive: bool = False,
        retention: Retention | None = None,
    ) -> None:
        self._redis = client
        self._store = store
        self._backlog = backlog
        self._name = name
        self._observers: list[Callable[[CallTotals], None]] = []
        self._delivered: deque[Delivered] = deque()  # and not yet in a batch
        self._known = Rows()
        self._ledger = Ledger(client)
        self._pending_after: dict[int, bytes] = {}  # by shard: own pending entries after this id are read before news
        self._groups: set[int] = set()
        self._turn = 0
        self._claim_from: dict[int, bytes] = {}  # by shard: where the look for abandoned entries goes on
        self._exclusive = exclusive
        self._retention = retention or Retention()
        self._claimed_at = float("-inf")
        self._writing: Future[None] | None = None
        self._failures = 0
        self.statistics = ConsumerStatistics()

    def on_stored(self, observe: Callable[[CallTotals], None]) -> None:
        """Have `observe` called with the totals of each batch once it is stored and acknowledged."""
        self._observers.append(observe)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; finishes the batch in hand. No error ends it."""
        with ThreadPoolExecutor(1, "usage-meter-store") as writer:
            while not stop.is_set():
                try:
                    is_full = self._overlap(writer)
                except Exception as error:  # the guarded step: whatever it was, the entries are pending and come again
                    stop.wait(self._failed(error))
                    continue
                if not is_full:
                    stop.wait(PAUSE_SECONDS)
            self._abandon()

    def step(self) -> int:
        """One batch, stored and acknowledged; returns the number of its entries. Raises on failure."""
        try:
            batch = self._gather()
            self._keep(batch)
        except BaseException:
            self._abandon()
            raise
        return len(batch.entries)

    def _overlap(self, writer: ThreadPoolExecutor) -> bool:
        """Gather a batch while the one before is written; whether it is full, so that more waits.

        After a failure one batch at a time, until one is stored.
        """
        batch = self._gather()
        if self._writing:
            self._writing.result()
            self._writing = None
        if self._failures:
            self._keep(batch)
            self._failures = 0
        elif batch.entries:
            self._writing = writer.submit(self._keep, batch)
        return batch.is_full

    def _gather(self) -> Batch:
        """What waits, up to a full batch."""
        now_us = time.time_ns() // 1000
        earliest_us, kept_us = self._retention.refused_us(now_us), self._retention.kept_us(now_us)
        batch = Batch(now_us, earliest_us, self._known, kept_us)
        while not batch.is_full and (self._delivered or self._fetch()):
            batch.add(self._delivered.popleft())
        batch.load.close()
        return batch

    def _keep(self, batch: Batch) -> None:
        """Steps 3 and 4 of the promise above, in this order."""
        if not batch.entries:
            return
        try:
            self._load(batch.load)
        except RejectedError:
            batch.load = Load()  # counts what is stored now, one by one
            for entry, rows in batch.readable():
                self._store_or_bury(batch, entry, rows)
        for entry, rows in batch.late:
            self._store_or_bury(batch, entry, rows, "unsealed")
        for shard in {entry.shard for entry in batch.entries}:
            self._acknowledge(batch, shard)
        self._count(batch)

    def _load(self, load: Load, table: Table = "events") -> None:
        for blocks in load.blocks():
            self._store.load(blocks, table)

    def _store_or_bury(self, batch: Batch, entry: Delivered, rows: Sequence[EventRow], table: Table = "events") -> None:
        """Finds by halving what the store refuses for what it holds."""
        load = Load(rows)
        try:
            self._load(load, table)
        except RejectedError as error:
            if len(rows) == 1:
                batch.bury(entry, [encode_row(rows[0])], f"{REJECTED}: {error}")
                batch.stored[entry.shard, entry.id] -= 1
                return
            self._store_or_bury(batch, entry, rows[: len(rows) // 2], table)
            self._store_or_bury(batch, entry, rows[len(rows) // 2 :], table)
        else:
            batch.load.count(load)

    def _acknowledge(self, batch: Batch, shard: int) -> None:
        """Together with what it means for the books: see `ledger`."""
        settled = [
            Settled(entry.id, events_of(entry.fields or {}), batch.stored.get((shard, entry.id), 0))
            for entry in batch.entries
            if entry.shard == shard
        ]
        letters = [
            (letter.entry, {**letter.fields, b"reason": letter.reason.encode()})
            for letter in batch.letters
            if letter.shard == shard
        ]
        self._ledger.settle(shard, settled, letters)

    def _fetch(self) -> bool:
        """Have some entries delivered: first those that dead consumers left, then from the next shard that has any."""
        return self._fetch_abandoned() or any(self._fetch_from(shard) for shard in self._shards_in_turn())

    def _shards_in_turn(self) -> list[int]:
        shards = self._backlog.shards()
        self._turn = (self._turn + 1) % len(shards)
        for shard in shards:
            if shard not in self._groups:
                self._join(shard)
        return shards[self._turn :] + shards[: self._turn]

    def _fetch_from(self, shard: int) -> bool:
        """Own entries that are still pending first, then news."""
        if shard in self._pending_after and self._read(shard, self._pending_after[shard]):
            self._pending_after[shard] = self._delivered[-1].id
            return True
        self._pending_after.pop(shard, None)
        return self._read(shard, b">")

    def _read(self, shard: int, after: bytes) -> bool:
        found = self._redis.xreadgroup(keys.GROUP, self._name, {keys.events(shard): after}, count=ENTRIES)
        return self._deliver(shard, _entries(found))

    def _deliver(self, shard: int, entries: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> bool:
        self._delivered.extend(Delivered(shard, id, fields or None) for id, fields in entries)
        return bool(entries)

    def _join(self, shard: int) -> None:
        """Make sure of the group; whatever earlier processes left pending is read first.

        An embedded store has no living consumer but this one, so all that is pending is taken over at once.
        """
        try:
            self._redis.xgroup_create(keys.events(shard), keys.GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._ledger.begin(shard)
        start = b"0-0" if self._exclusive else None
        while start:
            start, _ = self._claim(shard, start, idle_ms=0)
        self._groups.add(shard)
        self._pending_after[shard] = b"0"

    def _fetch_abandoned(self) -> bool:
        """Take over what dead consumers left pending."""
        if time.monotonic() - self._claimed_at >= CLAIM_SECONDS:
            self._claimed_at = time.monotonic()
            self._claim_from = dict.fromkeys(self._shards_in_turn(), b"0-0")
        while self._claim_from:
            shard, start = self._claim_from.popitem()
            following, claimed = self._claim(shard, start, CLAIM_IDLE_MS)
            if following:
                self._claim_from[shard] = following
            else:
                self._redis.eval(FORGET_CONSUMERS, 1, keys.events(shard), keys.GROUP, str(FORGET_IDLE_MS))
            if self._deliver(shard, claimed):
                return True
        return False

    def _claim(self, shard: int, start: bytes, idle_ms: int) -> tuple[bytes | None, list[Any]]:
        """Some entries that have been pending for that long are ours from now on; and where to go on, if anywhere."""
        # Servers differ in the reply's length.
        following, claimed, *_ = self._redis.xautoclaim(
            keys.events(shard), keys.GROUP, self._name, idle_ms, start_id=start, count=ENTRIES
        )
        return (None if following == b"0-0" else following), claimed

    def _count(self, batch: Batch) -> None:
        self.statistics.entries += len(batch.entries)
        self.statistics.events += batch.load.events
        self.statistics.dead += len(batch.letters)
        refused = self.statistics.refused
        for letter in batch.letters:
            refused[letter.kind] = refused.get(letter.kind, 0) + max(1, events_of(letter.fields))
            logger.error("dead-lettered an entry of %s: %s", keys.events(letter.shard), letter.reason)
        for observe in self._observers:
            observe(batch.load.totals)

    def _failed(self, error: Exception) -> float:
        """Counts and says it, once per row of failures; returns the seconds to wait."""
        self._abandon()
        if str(error).startswith("NOGROUP"):  # Redis came back empty: join again
            self._groups.clear()
        kinds = {redis.RedisError: "redis", StoreError: "store"}
        kind = next((kind for type, kind in kinds.items() if isinstance(error, type)), "other")
        self.statistics.count_error(kind)
        if self._failures == 0:
            logger.warning("the consumer waits: %s", error, exc_info=kind == "other")
        self._failures += 1
        return RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS)) - 1]

    def _abandon(self) -> None:
        """Let go of what is in hand, once nothing is being written any more: it is pending, to be read again."""
        if self._writing:
            wait([self._writing])
            self._writing = None
        self._delivered.clear()
        self._pending_after = dict.fromkeys(self._groups, b"0")


def _entries(reply: Any) -> list[tuple[bytes, dict[bytes, bytes] | None]]:
    """The entries of one stream from XREADGROUP's reply, which is a list (RESP2) or a mapping (RESP3)."""
    if not reply:
        return []
    if isinstance(reply, dict):
        (entries,) = next(iter(reply.values()))
    else:
        entries = reply[0][1]
    return list(entries)
