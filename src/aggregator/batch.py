"""What the consumer stores in one go: the entries as they came, and their events ready for the store. Pure.

Events are taken apart as they come and let go (see `columns`): as objects they take seven times the memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aggregator.block import native_block
from aggregator.entry import UNSEAL, Fields, fields_of, rows_of, salvaged
from aggregator.rows import PART_ROWS, Rows
from aggregator.totals import CallTotals
from usage_meter.event import EventRow, UsageEventError, encode_row

BATCH_EVENTS = 131_072
"""Few large inserts: some 25 MB, and half a second. The engine merges parts of fewer rows in all by rows and not by
columns, which takes five times as long as storing them did."""
BATCH_BYTES = 32 * 1024 * 1024  # of blocks, where events are large
FUTURE_US = 86_400 * 1_000_000  # a call further ahead than a day is a broken clock, not a call

AHEAD = "starts more than a day in the future"
SEALED = "starts on a day that is sealed: its calls may have been removed (AGGREGATOR_RETENTION_RAW)"
CORRECTION = "is a correction for a day that is sealed: what it corrects may be a part of the rollups for good"
EXPIRED = "starts before all that is kept (AGGREGATOR_RETENTION_MONTHLY)"
REJECTED = "the store refuses it"
KINDS = {AHEAD: "ahead", SEALED: "sealed", CORRECTION: "correction", EXPIRED: "expired"}
"""Reasons in a word. REJECTED, with what the store says behind it, is `rejected`; all others are `undecodable`."""


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
    entry: bytes
    """What it was a part of, by its id."""
    fields: Fields
    reason: str

    @property
    def kind(self) -> str:
        """The reason in a word."""
        return KINDS.get(self.reason) or ("rejected" if self.reason.startswith(REJECTED) else "undecodable")


class Load:
    """Events as blocks, and what they add up to."""

    def __init__(self, rows: Sequence[EventRow] = (), known: Rows | None = None) -> None:
        """`known` has what repeats from the load before; one thread at a time adds to it."""
        self.events = 0
        self.bytes = 0
        self.totals = CallTotals()
        self._rows = Rows() if known is None else known  # an empty one is false, and knows much all the same
        self._rows.forget()
        self._blocks: dict[int, list[bytes]] = {}
        self.add(rows)
        self.close()

    def add(self, rows: Sequence[EventRow]) -> None:
        """Raises UsageEventError, and has added none of them, when one cannot be read."""
        self._rows.add(rows)
        self.events += len(rows)
        if len(self._rows) >= PART_ROWS:
            self._encode()

    def close(self) -> None:
        """Nothing is added any more."""
        self._encode()

    def blocks(self) -> list[bytes]:
        """For each day the blocks of its events, one behind the other. Close it first."""
        return [b"".join(blocks) for blocks in self._blocks.values()]

    def count(self, other: "Load") -> None:
        """What the other one holds is stored already; it is only counted here."""
        self.events += other.events
        self.totals.include(other.totals)

    def _encode(self) -> None:
        for part in self._rows.take():
            self.totals.add(part)
            block = native_block(part)
            self._blocks.setdefault(part.day, []).append(block)
            self.bytes += len(block)


class Batch:
    """`now_us` is the present: what starts too long after it is refused, and what starts before `earliest_us`.

    An entry that says UNSEAL is let in all the same, from `kept_us` on: such calls are `late`, and stored apart.
    """

    def __init__(self, now_us: int, earliest_us: int = 0, known: Rows | None = None, kept_us: int = 0) -> None:
        self.entries: list[Delivered] = []
        self.letters: list[Letter] = []
        self.stored: dict[tuple[int, bytes], int] = {}
        """How many events of each entry go into the store."""
        self.load = Load(known=known)
        self.late: list[tuple[Delivered, list[EventRow]]] = []
        self._earliest_us, self._latest_us = earliest_us, now_us + FUTURE_US
        self._kept_us = kept_us

    @property
    def is_full(self) -> bool:
        late = sum(len(rows) for _, rows in self.late)
        return self.load.events + late >= BATCH_EVENTS or self.load.bytes >= BATCH_BYTES

    def add(self, entry: Delivered) -> None:
        self.entries.append(entry)
        if entry.fields is None:
            return
        try:
            self._take(entry, rows_of(entry.fields))
        except UsageEventError as error:
            self._salvage(entry, entry.fields, error)

    def readable(self) -> Iterator[tuple[Delivered, list[EventRow]]]:
        """Each entry with its rows, read once more."""
        for entry in self.entries:
            try:
                rows, _ = salvaged(entry.fields or {})
            except UsageEventError:
                continue  # removed meanwhile, or a letter already
            yield entry, [row for row in rows if self._earliest_us <= row.started_us <= self._latest_us]

    def bury(self, entry: Delivered, events: list[bytes], reason: str) -> None:
        self.letters.append(Letter(entry.shard, entry.id, fields_of(events), reason))

    def _take(self, entry: Delivered, rows: list[EventRow]) -> None:
        """Raises UsageEventError, and has taken none of them, when one cannot be read."""
        earliest_us, latest_us = self._earliest_us, self._latest_us
        started_us = [row.started_us for row in rows]
        timely = rows
        if rows and not earliest_us <= min(started_us) <= max(started_us) <= latest_us:  # compared in C, as a rule
            timely = [row for row in rows if earliest_us <= row.started_us <= latest_us]
        self.load.add(timely)
        self.stored[entry.shard, entry.id] = len(timely)
        if len(timely) < len(rows):
            self._refuse(entry, [row for row in rows if row.started_us > latest_us], AHEAD)
            late = [row for row in rows if row.started_us < earliest_us]
            if entry.fields and UNSEAL in entry.fields:
                self._let_in(entry, late)
            else:
                self._refuse(entry, late, SEALED)

    def _let_in(self, entry: Delivered, rows: list[EventRow]) -> None:
        """All but what could make a wrong number: what a correction replaces cannot be taken out of a rollup."""
        kept = [row for row in rows if row.started_us >= self._kept_us]
        let_in = [row for row in kept if row.version == 1]
        self._refuse(entry, [row for row in rows if row.started_us < self._kept_us], EXPIRED)
        self._refuse(entry, [row for row in kept if row.version != 1], CORRECTION)
        if let_in:
            self.late.append((entry, let_in))
            self.stored[entry.shard, entry.id] += len(let_in)

    def _refuse(self, entry: Delivered, rows: list[EventRow], reason: str) -> None:
        if rows:
            self.bury(entry, [encode_row(row) for row in rows], reason)

    def _salvage(self, entry: Delivered, fields: Fields, error: UsageEventError) -> None:
        """One bad event must not cost its neighbours."""
        try:
            rows, unreadable = salvaged(fields)
        except UsageEventError:
            self.letters.append(Letter(entry.shard, entry.id, fields, str(error)))
            return
        self._take(entry, rows)
        for reason, events in unreadable.items():
            self.bury(entry, events, reason)
