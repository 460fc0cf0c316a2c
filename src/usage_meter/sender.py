"""The background thread that carries the journal to Redis.

One flush is one MULTI/EXEC on one shard: events and calls in flight; once a second the live tally follows. The sender
never decodes an event.
Whatever Redis does (refuse, hang, restart, forget), only this thread waits; the events stay in the journal.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import ResponseError

from usage_meter import keys
from usage_meter.destination import ERRORS, Destination, StreamId, stream_id
from usage_meter.event import FORMAT_VERSION, pack
from usage_meter.failures import Failures
from usage_meter.journal import KEEP_SECONDS, Journal
from usage_meter.live_view import FLUSH_SECONDS, LiveView
from usage_meter.parcel import Parcel
from usage_meter.segment import Segment, Slice
from usage_meter.tally import Increase

logger = logging.getLogger("usage_meter")

HEARTBEAT_SECONDS = 2.5  # how soon a restarted Redis is noticed; far less than what was sent to it is kept
LOOK_SECONDS = 1.0  # how often we look: for a dead process's journal, by some system calls for each living one
LONGEST_PAUSE = 2.0  # between two attempts while Redis is away: it is seen soon after it is back
INSTANCE_SECONDS = 3600  # how long a process that records no longer is remembered


class Sender:
    """`start` once; `finish` sends what is left and ends the thread."""

    def __init__(
        self,
        instance: str,
        journal: Journal,
        live: LiveView,
        destination: Destination,
        address: str,
        failures: Failures,
        look: Callable[[], None],
    ) -> None:
        self.sent = 0
        self.resent = 0
        self.errors = 0
        self._instance = instance
        self._journal = journal
        self._live = live
        self._destination = destination
        self._address = address
        self._failures = failures
        self._look = look
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()
        self._deadline = 0.0  # of the ending
        self._away = False
        self._pause = FLUSH_SECONDS
        self._next_look = 0.0
        self._next_heartbeat = 0.0
        self._last_ids: dict[int, StreamId] = {}  # of the shards that were met
        self._ahead: dict[int, Parcel] = {}  # what a chain sends next, where much waits

    def start(self) -> None:
        """Raises RuntimeError where no thread can be started; then it may be tried again."""
        thread = threading.Thread(target=self._run, name="usage-meter", daemon=True)
        thread.start()
        self._thread = thread

    def finish(self, timeout: float) -> bool:
        """Send what is left, for at most `timeout` seconds; true when nothing remains."""
        self._deadline = time.monotonic() + timeout
        self._ending.set()
        self._journal.grown.set()
        if self._thread is not None:
            self._thread.join(timeout)
        return not self._journal.chains()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._wait()
            self._attempt()
        self._live.hurry = True
        while not self._attempt() or self._journal.chains():
            if time.monotonic() >= self._deadline:
                return
            time.sleep(FLUSH_SECONDS / 10)
        self._leave()

    def _wait(self) -> None:
        """Until the next flush: sooner when the journal grows, later while Redis is away."""
        if self._away:
            self._ending.wait(self._pause)
        else:
            self._journal.grown.wait(self._pause)
        self._journal.grown.clear()

    def _attempt(self) -> bool:
        """One round of everything that is due; false when Redis would not have it."""
        try:
            self._keep_house()
        except Exception as error:  # the guarded step: the disk's troubles do not keep events from Redis
            self._failures.add("journal", error)
        try:
            self._round()
        except ERRORS as error:
            self._went_away(error)
        except Exception as error:  # the guarded step: whatever it was, the thread lives on and the events stay
            self._failures.add("sending", error)
            self._went_away(error)
        else:
            self._is_back()
            return True
        return False

    def _keep_house(self) -> None:
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 (spreads)
            self._journal.look_around()
            self._look()
        self._journal.prepare()

    def _round(self) -> None:
        if time.monotonic() >= self._next_heartbeat:
            self._heartbeat()
        behind = self._journal.is_behind()
        for chain in self._journal.chains():
            self._flush(chain)
        for shard in self._live.shards():
            self._show(shard)
        if behind or self._journal.is_behind():
            self._journal.grown.set()  # no pause: whole segments wait, or what came while they did

    def _heartbeat(self) -> None:
        """Say that we live, see whether it is still the same Redis, and let go of what it has had for long enough."""
        now = time.time()
        shards = sorted({*self._journal.shards(), *self._last_ids})
        self._destination.announce(self._instance, shards, now, now - INSTANCE_SECONDS)
        for shard in shards:
            self._meet(shard)
        self._journal.release(now - KEEP_SECONDS)
        self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS

    def _meet(self, shard: int) -> None:
        """Who answers for a shard? Another server than before, or one whose stream went back, forgot something."""
        self._journal.meet(shard, self._destination.server(shard))
        before = self._last_ids.get(shard, (0, 0))
        last_id = self._destination.last_id(shard)
        if last_id is not None and last_id < before:
            self._journal.rewind(shard)
        self._last_ids[shard] = before if last_id is None else last_id

    def _flush(self, chain: int) -> None:
        """The next slice of a chain, with what is live of its shard."""
        found = self._journal.next_slice(chain)
        if found is None:
            return
        segment, taken = found
        if segment.shard not in self._last_ids:
            self._heartbeat()  # a new shard is announced before it has anything; this may also rewind the segment
            self._flush(chain)
            return
        taken, payload = self._packed(chain, segment, taken)
        transaction = self._destination.transaction(segment.shard)
        entry = ("v", FORMAT_VERSION, "n", taken.last - taken.first, "b", payload)
        transaction.execute_command("XADD", keys.events(segment.shard), "*", *entry)
        self._live.add_to(transaction, segment.shard)
        self._take_note(segment, taken, transaction.execute(raise_on_error=False))

    def _packed(self, chain: int, segment: Segment, taken: Slice) -> tuple[Slice, bytes]:
        """The slice, as far as it was packed ahead, and its payload. That of the next one is begun."""
        parcel = self._ahead.pop(chain, None)
        following = self._journal.next_slice(chain, after=segment)
        if following is not None:
            self._ahead[chain] = Parcel(*following)
        if parcel is None or not parcel.begins(segment, taken):
            return taken, pack(taken.data)
        return parcel.taken, parcel.payload()

    def _take_note(self, segment: Segment, taken: Slice, answers: list[Any]) -> None:
        accepted, *rest = answers
        if isinstance(accepted, Exception):
            raise accepted
        self._check_inflight(rest)
        self._last_ids[segment.shard] = stream_id(accepted)
        again = self._journal.accept(segment, taken)
        self.resent += again
        self.sent += taken.last - taken.first - again

    def _show(self, shard: int) -> None:
        """What is due of a shard's live view and went with no events."""
        transaction = self._destination.transaction(shard)
        self._live.add_to(transaction, shard)
        if len(transaction):
            self._check_inflight(transaction.execute(raise_on_error=False))
        while increase := self._live.increase(shard):
            self._increase(shard, increase)

    def _check_inflight(self, answers: list[Any]) -> None:
        for answer in answers:
            if isinstance(answer, Exception):  # somebody else's value under the key: the events are safe all the same
                self._failures.add("calls in flight", answer)

    def _increase(self, shard: int, increase: Increase) -> None:
        """The live tally. Where Redis takes no scripts there is none; the events are safe all the same."""
        try:
            if complaint := self._destination.increase(shard, increase):
                self._failures.add("live tally", ResponseError(complaint))
        except ResponseError as error:
            self._failures.add("live tally", error)

    def _leave(self) -> None:
        try:
            self._destination.farewell(self._instance, sorted(self._last_ids))
            self._destination.close()
        except Exception as error:  # the guarded step: at worst the keys age out
            self._failures.add("leaving", error)

    def _went_away(self, error: Exception) -> None:
        self.errors += 1
        self._next_heartbeat = 0.0  # ask who answers before anything is sent again
        self._pause = min(LONGEST_PAUSE, self._pause * 2) * random.uniform(0.9, 1.1)  # noqa: S311 (spreads processes)
        self._live.forget()
        if not self._away:
            self._away = True
            logger.warning("%s takes no events (%s: %s); they wait", self._address, type(error).__name__, error)
        try:
            self._destination.close()
        except Exception as close_error:  # the guarded step: a connection that is broken may not even close
            self._failures.add("disconnecting", close_error)

    def _is_back(self) -> None:
        self._pause = FLUSH_SECONDS
        if self._away:
            self._away = False
            logger.warning("%s takes events again", self._address)
