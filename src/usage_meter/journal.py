"""The queue between `record()` and Redis: a chain of segments per shard, bounded, first in first out.

`append` copies bytes and never waits. Beyond the cap the oldest segment goes, and its unsent events are counted.
"""

import mmap
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable

from usage_meter.segment import MAX_EVENT_BYTES, SEGMENT_BYTES, Segment, Slice

SLICE_EVENTS = 4000  # beyond some 2,000 events the deflated size per event no longer falls
SLICE_BYTES = 1024 * 1024  # raw; keeps an entry far below every limit of Redis and of the reader


class Journal:
    """Thread-safe: any thread appends, one thread reads and marks."""

    def __init__(self, max_bytes: int) -> None:
        self._lock = threading.Lock()
        self._segments: dict[int, deque[Segment]] = {}
        self._most_segments = max(2, max_bytes // SEGMENT_BYTES)
        self.dropped: Counter[str] = Counter()

    def append(self, shard: int, encoded: bytes) -> bool:
        """False when the event is too large to be kept (counted as dropped)."""
        with self._lock:
            chain = self._segments.get(shard)
            if chain and chain[-1].append(encoded):
                return True
            if len(encoded) > MAX_EVENT_BYTES:
                self.dropped["oversized"] += 1
                return False
            return self._grown(shard).append(encoded)

    def shards(self) -> list[int]:
        """The shards that have something to send."""
        with self._lock:
            return [shard for shard, chain in self._segments.items() if any(segment.unsent for segment in chain)]

    def known_shards(self) -> list[int]:
        with self._lock:
            return list(self._segments)

    def next_slice(self, shard: int) -> tuple[Segment, Slice] | None:
        with self._lock:
            for segment in self._segments.get(shard, ()):
                if found := segment.next_slice(SLICE_EVENTS, SLICE_BYTES):
                    return segment, found
        return None

    def accepted(self, segment: Segment, taken: Slice, server: str) -> None:
        """Redis has this slice: move the mark, and let go of a segment that is sent and full."""
        with self._lock:
            segment.accepted(taken.last, server, time.time())
            chain = self._segments[segment.shard]
            if len(chain) > 1 and chain[0] is segment and not segment.unsent:
                chain.popleft()

    def queued_bytes(self) -> int:
        with self._lock:
            return sum(segment.unsent_bytes for segment in self._all())

    def _grown(self, shard: int) -> Segment:
        if sum(map(len, self._segments.values())) >= self._most_segments:
            self._drop_oldest()
        segment = Segment.new(mmap.mmap(-1, SEGMENT_BYTES), shard)
        self._segments.setdefault(shard, deque()).append(segment)
        return segment

    def _drop_oldest(self) -> None:
        chain = max(self._segments.values(), key=len)
        self.dropped["journal_full"] += chain.popleft().unsent

    def _all(self) -> Iterable[Segment]:
        return (segment for chain in self._segments.values() for segment in chain)
