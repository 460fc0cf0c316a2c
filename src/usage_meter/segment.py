"""One segment of the journal: a fixed-size memory map that holds encoded events one behind the other.

The events stand together without anything between them, so that a slice of the segment is the payload of a stream
entry as it is. What frames them stands apart, in a directory at the front: one 8-byte word per event, where the event
ends and the CRC-32 of its bytes, written after the bytes themselves and in a single store. A word that is zero is the
end. A frame that was torn (a machine that lost its power) does not match its CRC and is skipped.

    header     16 words: magic, shard, kept, sent, when last accepted (Unix seconds), the server that accepted it
    directory  ENTRIES words: CRC-32 << 32 | end of the event, counted from the start of the data
    data       the events

`sent` events were accepted by Redis; those from `kept` on so recently that they may have to be sent again.
"""

import mmap
import zlib
from bisect import bisect_right
from typing import NamedTuple

MAGIC = int.from_bytes(b"UMETER01", "big")
WORD = 8
HEADER_WORDS = 16
ENTRIES = 32_768  # at the usual 150 to 400 bytes an event, data and directory fill up at about the same time
SEGMENT_BYTES = 4 * 1024 * 1024  # small enough to be dropped, held and unmapped as one; 10,000 to 20,000 events
DATA = (HEADER_WORDS + ENTRIES) * WORD
ROOM = SEGMENT_BYTES - DATA
MAX_EVENT_BYTES = 256 * 1024  # an event is a few hundred bytes; one beyond this is somebody's mistake
_END = 0xFFFF_FFFF

_SHARD, _KEPT, _SENT, _ACCEPTED, _SERVER = 1, 2, 3, 4, 5  # words of the header; the server takes the rest
_SERVER_BYTES = slice(_SERVER * WORD, HEADER_WORDS * WORD)


class Slice(NamedTuple):
    """Events `first` to `last` (exclusive) of a segment, as bytes ready to be packed."""

    first: int
    last: int
    data: memoryview


class Segment:
    """Written by one process at a time, which holds the lock of its directory. `append` is under the journal's lock."""

    __slots__ = ("_data", "_map", "_words", "count", "end", "torn")

    def __init__(self, memory: mmap.mmap) -> None:
        self._map = memory
        self._words = memoryview(memory)[:DATA].cast("Q")
        self._data = memoryview(memory)[DATA:]
        self.count = 0
        self.end = 0
        self.torn: list[int] = []

    @classmethod
    def new(cls, memory: mmap.mmap, shard: int) -> "Segment":
        segment = cls(memory)
        segment._words[_SHARD] = shard
        segment._words[0] = MAGIC
        return segment

    @property
    def shard(self) -> int:
        return self._words[_SHARD]

    @property
    def sent(self) -> int:
        return self._words[_SENT]

    @property
    def unsent(self) -> int:
        return self.count - self.sent

    @property
    def unsent_bytes(self) -> int:
        return self.end - self._end_of(self.sent)

    def append(self, encoded: bytes) -> bool:
        """False when there is no room. Bytes first, then the word that makes them an event."""
        end = self.end + len(encoded)
        if end > len(self._data) or self.count == ENTRIES:
            return False
        self._data[self.end : end] = encoded
        self._words[HEADER_WORDS + self.count] = zlib.crc32(encoded, end) << 32 | end
        self.end = end
        self.count += 1
        return True

    def next_slice(self, most_events: int, most_bytes: int) -> Slice | None:
        """The next events to send, as many as fit (one at least). None when all are sent."""
        first, start = self.sent, self._end_of(self.sent)
        last = min(first + most_events, self.count)
        if first >= last:
            return None
        if self._end_of(last) - start > most_bytes:
            last = max(
                first + 1, bisect_right(range(self.count + 1), start + most_bytes, first, last, key=self._end_of) - 1
            )
        return Slice(first, last, self._data[start : self._end_of(last)])

    def accepted(self, last: int, server: str, now: float) -> None:
        """Redis has the events before `last`."""
        self._words[_ACCEPTED] = int(now)
        self._map[_SERVER_BYTES] = server.encode().ljust(_SERVER_BYTES.stop - _SERVER_BYTES.start, b"\0")
        self._words[_SENT] = last

    def _end_of(self, count: int) -> int:
        """Where the first `count` events end."""
        return self._words[HEADER_WORDS + count - 1] & _END if count else 0
