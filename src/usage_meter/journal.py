"""The queue between `record()` and Redis: chains of segments, in files that survive the process, within a cap.

`append` copies bytes and never waits; the sending thread does everything that may take long: it prepares the next
file, reads, marks, deletes. What Redis accepted stays for KEEP_SECONDS, because a Redis that comes back after a crash
or a failover may have forgotten the last second. What other processes left when they died is found and sent as well.

Beyond the cap the oldest segment goes, and its unsent events are counted by reason: `journal_full`, or `memory_full`
while the disk cannot be written and segments are held in memory.
"""

import logging
import mmap
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from usage_meter.disk import Disk, Left
from usage_meter.journal_directory import is_passing, map_file
from usage_meter.segment import MAX_EVENT_BYTES, SEGMENT_BYTES, Segment, Slice

logger = logging.getLogger("usage_meter")

KEEP_SECONDS = 30.0  # an append-only file synced each second loses one or two; a failover takes some more to be seen
MEMORY_BYTES = 64 * 1024 * 1024  # while there is no disk: what an app can spare, some 200,000 events
FOUND = -1  # the chain of what dead processes left; the others are numbered by shard
MAPPED_SEGMENTS = 4  # at the end of a chain; those before are unmapped, so that a long queue takes no memory


class JournalClosedError(Exception):
    """This journal was closed while somebody still held it; there is, or will be, a new one."""


class Journal:
    """Thread-safe: any thread appends under the `lock` it was made with, the sending thread does all the rest."""

    def __init__(self, lock: threading.Lock, disk: Disk, max_bytes: int) -> None:
        """`max_bytes` is for all the processes that share the disk's directory."""
        self._lock = lock
        self._disk = disk
        self._max_bytes = max_bytes
        self._chains: dict[int, deque[Segment]] = {}  # per shard
        self._written: dict[int, Segment] = {}  # the last of each chain
        self._found: deque[Segment] = deque()  # of dead processes
        self._waiting: deque[Left] = deque()  # of dead processes, not yet looked into
        self._servers: dict[int, str] = {}
        self._closed = False
        self.grown = threading.Event()  # a segment was begun: there may be much to send
        self.dropped: Counter[str] = Counter()

    # From any thread.

    def append(self, shard: int, encoded: bytes) -> bool:
        """The lock is held. False when the event is too large, which is counted. Raises JournalClosedError."""
        if len(encoded) > MAX_EVENT_BYTES:
            self.dropped["oversized"] += 1
            return False
        segment = self._written.get(shard)
        if segment is not None and segment.append(encoded):
            return True
        if self._closed:
            raise JournalClosedError
        return self._begin(shard).append(encoded)

    def queued_bytes(self) -> int:
        """What is still to be sent."""
        with self._lock:
            return sum(segment.queued_bytes() for segment in self._segments()) + sum(
                left.size for left in self._waiting
            )

    def _begin(self, shard: int) -> Segment:
        """A new segment at the end of a shard's chain; without a system call where a file was prepared for it."""
        segment = self._file_segment(shard) or self._memory_segment(shard)
        chain = self._chains.setdefault(shard, deque())
        chain.append(segment)
        self._written[shard] = segment
        if len(chain) > MAPPED_SEGMENTS:
            chain[-MAPPED_SEGMENTS - 1].unmap()
        self.grown.set()
        return segment

    def _file_segment(self, shard: int) -> Segment | None:
        if not self._disk.spares:
            self._make_room()
        file = self._disk.take()
        return Segment.new(shard, file.memory, file.path, time.monotonic()) if file else None

    def _memory_segment(self, shard: int) -> Segment:
        held = sum(SEGMENT_BYTES for segment in self._segments() if segment.path is None)
        if held >= min(MEMORY_BYTES, self._max_bytes):
            self._drop_oldest("memory_full")
        return Segment.new(shard, mmap.mmap(-1, SEGMENT_BYTES), None, time.monotonic())

    def _make_room(self) -> None:
        """Hold the cap on disk with one more segment. The lock is held."""
        while self._disk_bytes() + SEGMENT_BYTES > self._max_bytes and self._drop_oldest("journal_full"):
            pass

    def _drop_oldest(self, reason: str) -> bool:
        """Remove the oldest segment on disk (or in memory), and count what was not sent. False when there is none.

        What was sent and is only kept goes first; what is being written never goes.
        """
        in_memory = reason == "memory_full"
        if self._waiting and not in_memory:
            with suppress(OSError):  # it can be looked into later
                self._take_in(_opened(self._waiting[0].path))
                self._waiting.popleft()
        oldest = [*(chain[0] for chain in self._chains.values() if len(chain) > 1), *self._found]
        candidates = [segment for segment in oldest if (segment.path is None) == in_memory]
        if not candidates:
            return False
        victim = min(candidates, key=lambda segment: (segment.unsent > 0, segment.born))
        self.dropped[reason] += victim.unsent
        victim.dropped_as = reason
        self._remove(victim)
        return True

    def _remove(self, segment: Segment) -> None:
        chain = self._found if segment in self._found else self._chains[segment.shard]
        chain.remove(segment)
        if segment.path is not None:
            segment.path.unlink(missing_ok=True)
        segment.unmap()

    def _disk_bytes(self) -> int:
        own = sum(segment.size for segment in self._segments() if segment.path) + self._disk.spares * SEGMENT_BYTES
        return self._disk.others_bytes + self._waiting_bytes() + own

    def _waiting_bytes(self) -> int:
        return sum(left.size for left in self._waiting)

    def _segments(self) -> Iterator[Segment]:
        yield from self._found
        for chain in self._chains.values():
            yield from chain

    # From the sending thread.

    def prepare(self) -> None:
        """Have the file of the next segment ready, so that no call waits for the disk."""
        with self._lock:
            if self._disk.spares or self._closed or not self._chains:
                return
            self._make_room()
        self._disk.prepare()

    def shards(self) -> list[int]:
        """All shards that this journal has something of."""
        with self._lock:
            return sorted({segment.shard for segment in self._segments()})

    def chains(self) -> list[int]:
        """What can be sent from: shards, and FOUND for what dead processes left."""
        with self._lock:
            chains = [shard for shard, chain in self._chains.items() if any(segment.unsent for segment in chain)]
            if self._waiting or any(segment.unsent for segment in self._found):
                chains.append(FOUND)
            return chains

    def is_behind(self) -> bool:
        """Whether whole segments wait."""
        with self._lock:
            chains = self._chains.values()
            return bool(self._waiting) or any(len(chain) > 1 and chain[-2].unsent for chain in chains)

    def next_slice(self, chain: int, after: Segment | None = None) -> tuple[Segment, Slice] | None:
        """What to send next from a chain, or once a segment of it (`after`) is sent.

        Raises OSError while its file cannot be opened because the process has run out of something.
        """
        while segment := self._next_segment(chain, after):
            if not segment.mapped and not self._map(segment):
                continue
            with self._lock:
                if found := segment.next_slice():
                    return segment, found
        return None

    def accept(self, segment: Segment, taken: Slice) -> int:
        """Redis has this slice. How many of its events it was given for another time."""
        with self._lock:
            again = segment.accept(taken.last, self._servers.get(segment.shard, ""), time.time())
            if segment.dropped_as:  # just when it was on its way: it has arrived after all
                self.dropped[segment.dropped_as] -= taken.last - taken.first
            if not segment.unsent and not self._is_being_written(segment):
                segment.unmap()
            return again

    def meet(self, shard: int, server: str) -> None:
        """This server answers for a shard: what another one took lately, it may not have."""
        with self._lock:
            self._servers[shard] = server
            for segment in self._segments():
                self._compare(segment)

    def rewind(self, shard: int) -> None:
        """The server forgot something: send again whatever it took lately."""
        with self._lock:
            for segment in self._segments():
                if segment.shard == shard:
                    segment.rewind()

    def release(self, before: float) -> None:
        """What Redis took before that moment (Unix seconds) is safe there; whole segments of it go."""
        with self._lock:
            for segment in list(self._segments()):
                if segment.release(before) and not self._is_being_written(segment):
                    self._remove(segment)

    def look_around(self) -> None:
        """Take over what dead processes left."""
        found = self._disk.look_around()
        with self._lock:
            self._waiting.extend(found)

    def close(self) -> None:
        """Give up the directory. What is not yet safe stays there, for whoever looks next."""
        with self._lock:
            self._closed = True
            self._written.clear()
            for segment in list(self._segments()):
                if segment.kept == segment.count:
                    self._remove(segment)
                elif segment.path is None:
                    self.dropped["memory_lost"] += segment.unsent
                else:
                    self._leave(segment)
            self._disk.close()

    def _leave(self, segment: Segment) -> None:
        """To whoever looks next. A file that somebody deleted must not keep the others from being left in order."""
        try:
            segment.shorten()
        except OSError as error:
            logger.warning("a journal file is gone: %s", error)
            self.dropped["journal_lost"] += segment.unsent

    def _next_segment(self, chain: int, after: Segment | None) -> Segment | None:
        with self._lock:
            if self._closed:
                return None
            for segment in self._found if chain == FOUND else self._chains.get(chain, ()):
                if segment.unsent and segment is not after:
                    return segment
            left = self._waiting.popleft() if chain == FOUND and self._waiting else None
        if left is None:
            return None
        try:
            found = _opened(left.path)
        except OSError:
            with self._lock:
                self._waiting.appendleft(left)
            raise
        with self._lock:
            self._take_in(found)
        return self._next_segment(chain, after)

    def _map(self, segment: Segment) -> bool:
        """Have a segment in memory again; one whose file is gone is lost, and counted."""
        try:
            memory = map_file(segment.file)
        except OSError as error:
            if is_passing(error):
                raise
            logger.warning("a journal file is gone: %s", error)
            memory = None
        with self._lock:
            if memory is not None:
                segment.map(memory)
            else:
                self.dropped["journal_lost"] += segment.unsent
                self._remove(segment)
        return memory is not None

    def _take_in(self, segment: Segment | None) -> None:
        """A dead process's segment joins what was found. The lock is held."""
        if segment is not None:
            self.dropped["torn"] += segment.torn_unsent()
            self._compare(segment)
            self._found.append(segment)

    def _compare(self, segment: Segment) -> None:
        server = self._servers.get(segment.shard, "")
        if server and segment.server and segment.server != server:
            segment.rewind()

    def _is_being_written(self, segment: Segment) -> bool:
        return self._written.get(segment.shard) is segment


def _opened(path: Path) -> Segment | None:
    """The segment in a dead process's file, checked; a file with nothing in it is deleted. Raises OSError as above."""
    try:
        memory = map_file(path)
        segment = Segment.read(memory, path) if memory else None
    except (OSError, ValueError) as error:  # stays where it is: another version may read it
        if isinstance(error, OSError) and is_passing(error):
            raise
        logger.warning("cannot read the journal file %s: %s", path, error)
        return None
    if segment is None:
        path.unlink(missing_ok=True)
    return segment
