"""What the consumer stores in one go: the entries as they came, and their events ready for the store. Pure.

Events are turned into blocks a few thousand at a time and let go: as objects they take seven times the memory, and
whatever is larger than the processor's cache takes twice the time.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from aggregator.block import BLOCK_EVENTS, blocks_by_day
from aggregator.entry import Fields, events_of, fields_of
from aggregator.totals import CallTotals
from usage_meter.event import UsageEvent, UsageEventError

BATCH_EVENTS = 65_536  # few large inserts, whose fixed costs rule: some 15 MB, and a quarter of a second
BATCH_BYTES = 32 * 1024 * 1024  # of blocks, where events are large
FUTURE_US = 86_400 * 1_000_000  # a call further ahead than a day is a broken clock, not a call


@dataclass(frozen=True, slots=True)
class Delivered:
    """An entry that Redis delivered. It has no fields when it was removed meanwhile: somebody else has stored it."""

    shard: int
    id: bytes
    fields: Fields | None


@dataclass(frozen=True, slots=True)
class Letter:
    """What goes to the dead-letter stream of a shard, in the form in which it can be sent again."""

    shard: int
    fields: Fields
    reason: str


class Batch:
    """`now_us` is the present: what starts too long after it is refused."""

    def __init__(self, now_us: int) -> None:
        self.entries: list[Delivered] = []
        self.letters: list[Letter] = []
        self.totals = CallTotals()
        self.events = 0
        self._latest_us = now_us + FUTURE_US
        self._loose: list[UsageEvent] = []
        self._blocks: dict[int, list[bytes]] = {}
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        return self.events >= BATCH_EVENTS or self._bytes >= BATCH_BYTES

    def add(self, entry: Delivered) -> None:
        self.entries.append(entry)
        try:
            events, ahead = self._read(entry)
        except UsageEventError as error:
            self.letters.append(Letter(entry.shard, entry.fields or {}, str(error)))
            return
        if ahead:
            self.letters.append(Letter(entry.shard, fields_of(ahead), "starts more than a day in the future"))
        self.count(events)
        self._loose += events
        if len(self._loose) >= BLOCK_EVENTS:
            self._encode()

    def count(self, events: list[UsageEvent]) -> None:
        self.events += len(events)
        self.totals.add(events)

    def blocks(self) -> list[bytes]:
        """For each day the blocks of its events, one behind the other."""
        self._encode()
        return [b"".join(blocks) for blocks in self._blocks.values()]

    def once_more(self) -> Iterator[tuple[int, list[UsageEvent]]]:
        """Each entry's shard and events, read again to be stored one by one; what was counted is forgotten."""
        self.events, self.totals = 0, CallTotals()
        for entry in self.entries:
            try:
                yield entry.shard, self._read(entry)[0]
            except UsageEventError:
                continue  # a letter already

    def _read(self, entry: Delivered) -> tuple[list[UsageEvent], list[UsageEvent]]:
        """The events that are to be stored, and those of the future."""
        events = events_of(entry.fields) if entry.fields is not None else []
        ahead = [event for event in events if event.started_us > self._latest_us]
        return ([event for event in events if event.started_us <= self._latest_us] if ahead else events), ahead

    def _encode(self) -> None:
        for day, blocks in blocks_by_day(self._loose).items():
            self._blocks.setdefault(day, []).extend(blocks)
            self._bytes += sum(map(len, blocks))
        self._loose = []
