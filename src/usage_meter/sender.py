"""The background thread that carries the journal to Redis.

One flush is one MULTI/EXEC per shard: the events, the live tallies, the calls in flight. The sender never decodes an
event. Whatever Redis does (refuse, hang, restart), only this thread waits; the events stay in the journal.
"""

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import redis

from usage_meter import keys
from usage_meter.destination import Destination
from usage_meter.event import FORMAT_VERSION, pack
from usage_meter.failures import Failures
from usage_meter.segment import Segment, Slice
from usage_meter.settings import MeterSettings

if TYPE_CHECKING:
    from usage_meter.outbox import Outbox

logger = logging.getLogger("usage_meter")

FLUSH_SECONDS = 0.1  # what a live view may lag behind; fewer, larger entries cost Redis and the reader less
TALLY_SECONDS = 1.0  # the tallies of a second go together: a value costs some commands, not some per flush
HEARTBEAT_SECONDS = keys.INFLIGHT_SECONDS / 4  # three may be late before a living process's counters age out
LONGEST_PAUSE = 2.0  # between two attempts while Redis is away: it is seen soon after it is back
INSTANCE_SECONDS = 3600  # how long a process that no longer records is remembered


class Sender:
    """`start` once; `finish` drains and ends the thread."""

    def __init__(self, outbox: "Outbox", settings: MeterSettings, failures: Failures) -> None:
        self.sent = 0
        self.errors = 0
        self._outbox = outbox
        self._settings = settings
        self._failures = failures
        self._destination = Destination(settings.redis_url, settings.redis_timeout)
        self._thread = threading.Thread(target=self._run, name="usage-meter", daemon=True)
        self._wake = threading.Event()
        self._deadline: float | None = None  # when set: drain, and be gone by then
        self._away = False
        self._pause = FLUSH_SECONDS
        self._next_heartbeat = 0.0
        self._next_tally = 0.0
        self._servers: dict[int, str] = {}
        self._published: dict[int, int] = {}  # shard → calls in flight as Redis knows them

    def start(self) -> None:
        self._thread.start()

    def finish(self, timeout: float) -> bool:
        """Send what is left for at most `timeout` seconds; true when nothing remains."""
        self._deadline = time.monotonic() + timeout
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._outbox.journal.shards()

    def _run(self) -> None:
        while self._deadline is None:
            self._wake.wait(self._pause)
            self._wake.clear()
            self._attempt()
        while self._outbox.journal.shards() and time.monotonic() < self._deadline and not self._attempt():
            time.sleep(min(FLUSH_SECONDS, max(0.0, self._deadline - time.monotonic())))
        self._leave()

    def _attempt(self) -> bool:
        """One round over everything that is due; false when Redis would not have it."""
        try:
            self._round()
            self._is_back()
            return True
        except redis.RedisError as error:
            self._went_away(error)
        except Exception as error:  # the guarded step: whatever it was, the thread lives on and the events stay
            self._failures.add("sending", error)
            self._went_away(error)
        return False

    def _round(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._heartbeat()
            self._next_heartbeat = now + HEARTBEAT_SECONDS
        while shards := self._outbox.journal.shards():
            for shard in shards:
                self._flush(shard)
        self._publish_inflight()

    def _heartbeat(self) -> None:
        shards = sorted({*self._outbox.journal.known_shards(), *self._published})
        now = time.time()
        self._destination.announce(self._outbox.instance, shards, now, now - INSTANCE_SECONDS)
        for shard in shards:
            self._servers[shard] = self._destination.server(shard)
        self._published = dict.fromkeys(self._published, -1)  # a refresh is due

    def _flush(self, shard: int) -> None:
        found = self._outbox.journal.next_slice(shard)
        if found is None:
            return
        segment, taken = found
        pipeline: Any = self._destination.node(shard).pipeline(transaction=True)
        pipeline.execute_command(*self._entry(shard, taken))
        self._add_tally(pipeline, shard)
        self._add_inflight(pipeline, shard)
        answers = pipeline.execute(raise_on_error=False)
        self._take_note(segment, taken, answers)

    def _entry(self, shard: int, taken: Slice) -> tuple[Any, ...]:
        payload = pack(taken.data)
        return ("XADD", keys.events(shard), "*", "v", FORMAT_VERSION, "n", taken.last - taken.first, "b", payload)

    def _add_tally(self, pipeline: Any, shard: int) -> None:
        now = time.monotonic()
        if now < self._next_tally and self._deadline is None:
            return
        self._next_tally = now + TALLY_SECONDS
        if tally := self._outbox.take_tally(shard):
            increments, lifetimes = tally.increments(shard)
            for key, members in increments.items():
                for member, amount in members.items():
                    pipeline.execute_command("ZINCRBY", key, amount, member)
                pipeline.execute_command("EXPIRE", key, lifetimes[key])

    def _take_note(self, segment: Segment, taken: Slice, answers: list[Any]) -> None:
        if isinstance(answers[0], Exception):
            raise answers[0]
        self._outbox.journal.accepted(segment, taken, self._servers.get(segment.shard, ""))
        self.sent += taken.last - taken.first
        for answer in answers[1:]:
            if isinstance(answer, Exception):  # a live key of another type: the events are safe all the same
                self._failures.add("live tallies", answer)

    def _publish_inflight(self) -> None:
        """What is in flight, where it changed without a flush, and each heartbeat."""
        for shard in sorted(
            {self._outbox.shard_of(workspace) for workspace, _ in self._outbox.inflight.callers()}
            | set(self._published)
        ):
            if self._published.get(shard) != self._outbox.inflight.changes:
                pipeline = self._destination.node(shard).pipeline(transaction=True)
                self._add_inflight(pipeline, shard)
                pipeline.execute()

    def _add_inflight(self, pipeline: Any, shard: int) -> None:
        key = keys.inflight(shard, self._outbox.instance)
        changes = self._outbox.inflight.changes
        fields: list[bytes | int] = []
        for caller, calls in self._outbox.inflight.callers().items():
            if self._outbox.shard_of(caller[0]) == shard:
                fields += (keys.inflight_field(*caller), calls)
        pipeline.execute_command("DEL", key)
        if fields:
            pipeline.execute_command("HSET", key, *fields)
            pipeline.execute_command("EXPIRE", key, keys.INFLIGHT_SECONDS)
        self._published[shard] = changes

    def _leave(self) -> None:
        """This process no longer records: take its name and its calls in flight out of Redis, if Redis is there."""
        try:
            if not self._away:
                for shard in self._published:
                    self._destination.node(shard).delete(keys.inflight(shard, self._outbox.instance))
                self._destination.farewell(self._outbox.instance)
            self._destination.close()
        except Exception as error:  # the guarded step: at worst the keys age out
            self._failures.add("closing", error)

    def _went_away(self, error: Exception) -> None:
        self.errors += 1
        self._destination.close()
        self._next_heartbeat = 0.0  # ask who answers before anything is sent again
        self._pause = min(LONGEST_PAUSE, self._pause * 2) * random.uniform(0.9, 1.1)  # noqa: S311 (spreads processes)
        if not self._away:
            self._away = True
            where = self._settings.redis_address
            logger.warning("%s does not take events (%s: %s); they wait", where, type(error).__name__, error)

    def _is_back(self) -> None:
        self._pause = FLUSH_SECONDS
        if self._away:
            self._away = False
            logger.warning("%s takes events again", self._settings.redis_address)
