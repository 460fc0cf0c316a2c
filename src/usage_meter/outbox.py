"""Everything of the recorder that belongs to one process and never crosses a fork: journal, tallies, counts, thread."""

import hashlib
import os
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from usage_meter.destination import Destination
from usage_meter.disk import Disk
from usage_meter.event import UsageEvent, encode
from usage_meter.failures import Failures
from usage_meter.fork_mark import fork_mark
from usage_meter.inflight import Calls
from usage_meter.journal import Journal
from usage_meter.journal_directory import owned
from usage_meter.keys import shard_of
from usage_meter.live_view import LiveView
from usage_meter.sender import Sender
from usage_meter.settings import MeterSettings, own_journal_dir
from usage_meter.tally import Tally

DROPPED = "dropped:"
LOCKING = frozenset(f"usage_meter.{name}" for name in ("outbox", "journal", "tally"))
"""The modules whose code holds the outbox's lock."""


class Outbox:
    """Open from its construction to `close`; its thread runs from `start` on."""

    def __init__(
        self, settings: MeterSettings, failures: Failures, in_flight: Calls, look: Callable[[], None] = lambda: None
    ) -> None:
        """`look` is called once a second by the thread."""
        self.mark = fork_mark()
        self.instance = instance_name()
        self.recorded = 0
        self._shards = settings.shards
        self._lock = threading.Lock()
        self._postponed: deque[tuple[bytes, UsageEvent, UsageEvent | None]] = deque()
        self._look = look
        self._tally = Tally(self._lock)
        self._disk = Disk(journal_parent(settings, failures), self.instance)
        self.journal = Journal(self._lock, self._disk, settings.journal_max_bytes)
        live = LiveView(self.instance, settings.shards, self._tally, in_flight)
        destination, address = Destination(settings.redis_url, settings.redis_timeout), settings.redis_address
        self.sender = Sender(self.instance, self.journal, live, destination, address, failures, self._turn)

    def record(self, event: UsageEvent, replaces: UsageEvent | None) -> bool:
        """Copy the event into the journal. Raises what `encode` raises, and JournalClosedError."""
        if not event.instance:
            event.instance = self.instance
        encoded = encode(event)
        if self._lock.locked() and _is_interrupted():
            self._postponed.append((encoded, event, replaces))
            return True
        return self._keep(encoded, event, replaces)

    def _keep(self, encoded: bytes, event: UsageEvent, replaces: UsageEvent | None) -> bool:
        shard = shard_of(event.workspace, self._shards) if self._shards > 1 else 0
        with self._lock:  # and not `acquire`: a signal's handler that raises would leave it held
            if not self.journal.append(shard, encoded):
                return False
            self.recorded += 1
            self._tally.add(event, replaces)
        return True

    def _turn(self) -> None:
        """Once a second, by the thread."""
        self._keep_postponed()
        self._look()

    def _keep_postponed(self) -> None:
        while True:
            try:
                postponed = self._postponed.popleft()
            except IndexError:  # there are no more
                return
            self._keep(*postponed)

    def counts(self) -> Counter[str]:
        """Events, by what became of them: `recorded`, `sent`, `resent`, `dropped:REASON`; and `errors` of sending."""
        sender = self.sender
        counts = Counter(recorded=self.recorded, sent=sender.sent, resent=sender.resent, errors=sender.errors)
        counts.update({f"{DROPPED}{reason}": number for reason, number in self.journal.dropped.items()})
        return counts

    def close(self, timeout: float) -> bool:
        """Send what is left, for at most `timeout` seconds; true when Redis has everything. The rest stays on disk."""
        self._keep_postponed()
        drained = self.sender.finish(timeout)
        self._keep_postponed()  # what came meanwhile stays on disk
        self.journal.close()
        return drained

    def abandon(self) -> None:
        """In a forked child: what is here is the parent's."""
        self._disk.abandon()


def _is_interrupted() -> bool:
    """Whether this thread was about to hold the lock, or holds it: garbage is collected at any moment, and with it a
    suspended call, whose end is recorded then. To wait for the lock would be to wait for oneself."""
    frame = sys._getframe(1).f_back
    while frame is not None and frame.f_globals.get("__name__") not in LOCKING:
        frame = frame.f_back
    return frame is not None


def instance_name() -> str:
    """Host, process and four random bytes: unique though process ids and container host names come again."""
    return f"{socket.gethostname()[:64]}-{os.getpid()}-{os.urandom(4).hex()}"


def journal_parent(settings: MeterSettings, failures: Failures) -> Path | None:
    """The directory shared by the processes that send to the same Redis: an orphan must not go to another one.

    None, for memory only, when the default directory is not this user's: others could read what is in it; or when there
    is no temporary directory at all, as in a container that may write nowhere.
    """
    try:
        home = settings.journal_dir or own_journal_dir()
        if settings.journal_dir is None and not owned(home):
            raise PermissionError(f"{home} is not a directory of this user's own")
    except OSError as error:
        failures.add("journal", error)
        return None
    return home / hashlib.sha256(settings.redis_address.encode()).hexdigest()[:16]
