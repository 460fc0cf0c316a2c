"""One segment of the journal: a memory map of fixed size that holds encoded events one behind the other.

The events stand together with nothing between them, so that a slice of the segment is the body of a stream entry as
it is. What frames them stands apart, in a directory at the front: one 8-byte word per event, where the event ends and
the CRC-32 of its bytes, written after those bytes and in a single store. A word of zero is the end. A frame that was
torn (the machine lost its power before all pages were written) does not match its CRC, and is skipped and counted.

    header     16 words: magic, shard, kept, sent, when last accepted (Unix seconds), by which server
    directory  ENTRIES words: CRC-32 << 32 | end of the event, counted from the start of the data
    data       the events

Redis has the first `sent` events; those from `kept` on so recently that it may yet forget them.
"""

import mmap
import os
from collections import deque
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

MAGIC = int.from_bytes(b"UMETER01", "big")
WORD = 8
HEADER_WORDS = 16
ENTRIES = 8192  # at 120 bytes an event the directory is as full as the data; they are rarely smaller
SEGMENT_BYTES = 1024 * 1024  # what is made, sent, dropped and deleted as one: some 3,000 events
DATA = (HEADER_WORDS + ENTRIES) * WORD
MAX_EVENT_BYTES = 256 * 1024  # an event is some hundred bytes; one beyond this is somebody's mistake

_END = 0xFFFF_FFFF
_SHARD, _KEPT, _SENT, _ACCEPTED, _SERVER = 1, 2, 3, 4, 5
_SERVER_BYTES = slice(_SERVER * WORD, HEADER_WORDS * WORD)


class Slice(NamedTuple):
    """Events `first` to `last` (exclusive) of a segment, their bytes as one."""

    first: int
    last: int
    data: memoryview


class Segment:
    """Not thread-safe: everything but `map` and `verify` happens under the journal's lock.

    A segment in a file is unmapped while nobody reads or writes it, so that a long queue takes disk and no memory.
    """

    __slots__ = (
        "_accepted",
        "_data",
        "_map",
        "_room",
        "_words",
        "born",
        "count",
        "dropped_as",
        "end",
        "kept",
        "path",
        "resend",
        "sent",
        "server",
        "shard",
        "torn",
    )

    def __init__(self, shard: int, path: Path | None, born: float = 0.0) -> None:
        self.shard = shard
        self.path = path  # None: in memory only
        self.born = born  # any clock of this process; 0 is older than everything of its own
        self.count = self.end = self.kept = self.sent = 0
        self.resend = 0  # events before this one are sent for another time
        self.server = ""
        self.dropped_as = ""  # why, of one that had to go
        self.torn: list[int] = []
        self._accepted: deque[tuple[float, int]] = deque()  # when Redis took the events before which
        self._map: mmap.mmap | None = None
        self._room = 0
        self._words = self._data = memoryview(b"")

    @classmethod
    def new(cls, shard: int, memory: mmap.mmap, path: Path | None, born: float) -> "Segment":
        """An empty segment in `memory`, which is all zeros."""
        segment = cls(shard, path, born)
        segment.map(memory)
        segment._words[_SHARD] = shard
        segment._words[0] = MAGIC  # last: without it there is nothing in here
        return segment

    @classmethod
    def read(cls, memory: mmap.mmap, path: Path) -> "Segment | None":
        """The segment that another process left, every frame checked; None when there is nothing in it.

        Raises ValueError for a file that is not one, or of another version.
        """
        if len(memory) < DATA:
            return None
        words = memoryview(memory)[:DATA].cast("Q")
        if words[0] not in (0, MAGIC):
            raise ValueError("not a segment of this version")
        if not words[0]:
            return None
        segment = cls(words[_SHARD], path)
        segment.map(memory)
        segment.verify()
        segment.sent = min(words[_SENT], segment.count)
        segment.kept = min(words[_KEPT], segment.sent)
        segment.server = bytes(memory[_SERVER_BYTES]).rstrip(b"\0").decode("ascii", "replace")
        segment._accepted.append((float(words[_ACCEPTED]), segment.sent))
        return segment if segment.count else None

    @property
    def file(self) -> Path:
        """Its file, of one that is not in memory only."""
        if self.path is None:
            raise ValueError("a segment in memory has no file")
        return self.path

    @property
    def size(self) -> int:
        """Bytes that it takes, on disk or in memory."""
        return DATA + self._room

    @property
    def mapped(self) -> bool:
        return self._map is not None

    @property
    def unsent(self) -> int:
        return self.count - self.sent

    def map(self, memory: mmap.mmap) -> None:
        self._words = memoryview(memory)[:DATA].cast("Q")
        self._data = memoryview(memory)[DATA:]
        self._room = len(self._data)
        self._map = memory

    def unmap(self) -> None:
        """Let go of the memory, once a slice that is being sent is done with; only of what is safe in a file."""
        if self.path is not None:
            self._map = None
            self._words = self._data = memoryview(b"")

    def append(self, encoded: bytes) -> bool:
        """False when there is no room. Bytes first, then the word that makes them an event."""
        start, count = self.end, self.count
        end = start + len(encoded)
        if end > self._room or count == ENTRIES:
            return False
        self._data[start:end] = encoded
        self._words[HEADER_WORDS + count] = crc32(encoded, end) << 32 | end
        self.end = end
        self.count = count + 1
        return True

    def verify(self) -> None:
        """Count the events of a segment that another process wrote, and find those that are torn."""
        directory = bytes(self._words[HEADER_WORDS:]).rstrip(b"\0")
        self.count = (len(directory) + WORD - 1) // WORD
        start = 0
        for index in range(self.count):
            word = self._words[HEADER_WORDS + index]
            end = word & _END
            if not start < end <= self._room:
                self.torn.append(index)
                continue
            if crc32(self._data[start:end], end) != word >> 32:
                self.torn.append(index)
            start = end
        self.end = start

    def next_slice(self) -> Slice | None:
        """The next events to send: all that are left, up to a torn one. None when all are sent."""
        while self.sent in self.torn:
            self.sent += 1
            self._accepted.append((0.0, self.sent))  # nothing to wait for
        first = self.sent
        last = min((index for index in self.torn if index > first), default=self.count)
        if first >= last:
            return None
        return Slice(first, last, self._data[self._end_of(first) : self._end_of(last)])

    def accept(self, last: int, server: str, now: float) -> int:
        """Redis has the events before `last`. How many of them it was given for another time."""
        again = max(0, min(last, self.resend) - self.sent)
        self.sent = last
        self.server = server
        self._accepted.append((now, last))
        if self._map is not None:
            self._words[_ACCEPTED] = int(now)
            self._map[_SERVER_BYTES] = server.encode()[:88].ljust(88, b"\0")
            self._words[_SENT] = last
        return again

    def release(self, before: float) -> bool:
        """What Redis took before this moment is safe. True when that is everything in here."""
        while self._accepted and self._accepted[0][0] <= before:
            self.kept = self._accepted.popleft()[1]
        if self._map is not None:
            self._words[_KEPT] = self.kept
        return self.kept == self.count

    def rewind(self) -> None:
        """Redis may have forgotten what it took lately: those are to be sent again."""
        self.resend = max(self.resend, self.sent)
        self.sent = self.kept
        self._accepted.clear()
        if self._map is not None:
            self._words[_SENT] = self.sent

    def torn_unsent(self) -> int:
        return sum(1 for index in self.torn if index >= self.sent)

    def shorten(self) -> None:
        """Give back the disk behind the last event: nothing is appended any more. Raises OSError."""
        self.unmap()
        os.truncate(self.file, DATA + self.end)

    def queued_bytes(self) -> int:
        """Bytes that are still to be sent (of an unmapped segment all of them, for a part is not known)."""
        if not self.unsent:
            return 0
        return self.end - (self._end_of(self.sent) if self._map is not None else 0)

    def _end_of(self, count: int) -> int:
        """Where the first `count` events end."""
        return self._words[HEADER_WORDS + count - 1] & _END if count else 0
