"""Where every finished call goes: `record()` keeps the event and returns; a background thread does the rest.

Nothing here raises into the app or waits for the network. The first record in a process opens that process's outbox
(journal and thread); a forked child opens its own in the same way.
"""

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from usage_meter.event import UsageEvent
from usage_meter.failures import Failures
from usage_meter.inflight import Calls
from usage_meter.journal import JournalClosedError
from usage_meter.outbox import DROPPED, Outbox
from usage_meter.settings import MeterSettings


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of this process since it started. Counts are events, except where the name says otherwise."""

    recorded: int = 0
    sent: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    queued_bytes: int = 0
    send_errors: int = 0
    in_flight: int = 0
    resent: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)


class Recorder:
    """Thread-safe, usable before and after a fork. After `close` the next record opens it again."""

    def __init__(self, settings: MeterSettings) -> None:
        self._settings = settings
        self._watchers: list[Callable[[], None]] = []
        self._outbox: Outbox | None = None
        self._unstarted: Outbox | None = None  # one whose thread could not be started
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_Renewal(self))

    def record(self, event: UsageEvent, replaces: UsageEvent | None = None) -> bool:
        """Keep an event; false when it was dropped (and counted). Its fields are of the contract's types and ranges.

        `instance` is filled in. A corrected event (a version above 1) changes the live tallies only when `replaces` is
        what it corrects.
        """
        try:
            outbox = self._outbox
            if outbox is None or not outbox.mark[0]:
                outbox = self._open()
            return outbox.record(event, replaces)
        except Exception as error:  # the guarded step: nothing of ours reaches the app
            return self._retried(event, replaces, error)

    def open(self) -> None:
        """Begin now, not with the first call, so that what dead processes left is sent at once. Not before a fork."""
        try:
            self._opened()
        except Exception as error:  # the guarded step
            self.failed("open", error)

    def enter(self, event: UsageEvent) -> None:
        """The call of this event is in flight until `leave`, for whoever the event names as its caller meanwhile."""
        try:
            if self._outbox is None:
                self._open()
            self._in_flight[event.id] = event
        except Exception as error:  # the guarded step
            self.failed("enter", error)

    def leave(self, event: UsageEvent) -> None:
        """Harmless when it is not in flight."""
        self._in_flight.pop(event.id, None)

    def failed(self, kind: str, error: BaseException) -> None:
        """Something of ours went wrong: counted, and logged the first time that it is of this kind."""
        self._failures.add(kind, error)

    def count_dropped(self, reason: str) -> None:
        with self._lock:
            self._counts[DROPPED + reason] += 1

    def watch(self, look: Callable[[], None]) -> None:
        """Have `look` called once a second by the sending thread, of forked children too, and after each close."""
        self._watchers.append(look)

    @property
    def instance(self) -> str:
        """The name of this process in Redis and on its events."""
        return self._opened().instance

    def statistics(self) -> Statistics:
        outbox = self._outbox or self._unstarted
        if outbox is not None and not outbox.mark[0]:
            return Statistics()
        with self._lock:
            counts = Counter(self._counts)
            for each in [outbox, *self._closing] if outbox else self._closing:
                counts.update(each.counts())
        return Statistics(
            recorded=counts["recorded"],
            sent=counts["sent"],
            dropped={
                reason.removeprefix(DROPPED): n for reason, n in counts.items() if n and reason.startswith(DROPPED)
            },
            queued_bytes=outbox.journal.queued_bytes() if outbox else 0,
            send_errors=counts["errors"],
            in_flight=len(self._in_flight),
            resent=counts["resent"],
            failures=self._failures.counts(),
        )

    def close(self, timeout: float = 5.0) -> bool:
        """Send what is left, for at most `timeout` seconds; true when Redis has everything. The rest stays on disk."""
        with self._lock:
            outbox = self._outbox or self._unstarted
            self._outbox = self._unstarted = None
            if outbox is None or not outbox.mark[0]:
                return True
            self._closing.append(outbox)
        try:
            return outbox.close(timeout)
        except Exception as error:  # the guarded step: an app that ends is to end
            self.failed("close", error)
            return False
        finally:
            with self._lock:
                self._closing.remove(outbox)
                self._counts.update(outbox.counts())
            self._look()

    def _look(self) -> None:
        for look in self._watchers:
            try:
                look()
            except Exception as error:  # the guarded step
                self.failed("watch", error)

    def _opened(self) -> Outbox:
        outbox = self._outbox
        if outbox is None or not outbox.mark[0]:
            outbox = self._open()
        return outbox

    def _open(self) -> Outbox:
        with self._lock:
            if self._outbox is not None and not self._outbox.mark[0]:
                self._renew()  # a fork that Python was not told of, such as uWSGI's
        with self._lock:
            if self._outbox is not None:
                return self._outbox
            outbox = self._unstarted or Outbox(self._settings, self._failures, self._in_flight, self._look)
            self._start(outbox)
            return outbox

    def _start(self, outbox: Outbox) -> None:
        """Start its thread, or leave that to the next call: events are kept meanwhile, and at the end they stay."""
        try:
            outbox.sender.start()
            self._outbox, self._unstarted = outbox, None
        except RuntimeError as error:  # no more threads, or the interpreter is shutting down
            self._failures.add("the sending thread", error)
            self._unstarted = outbox

    def _renew(self) -> None:
        """A process's beginning: nothing of a parent's is shared, neither its locks nor its counts."""
        parents = self._outbox or self._unstarted
        self._lock = threading.Lock()
        self._outbox = None
        self._unstarted = None
        self._closing: list[Outbox] = []
        self._failures = Failures()
        self._in_flight: Calls = {}
        self._counts: Counter[str] = Counter()  # of outboxes that are closed, and of what never came to one
        if parents is not None:
            parents.abandon()

    def _retried(self, event: UsageEvent, replaces: UsageEvent | None, error: Exception) -> bool:
        """What can be mended is: a lone surrogate (an undecodable byte of a path), a close at the same moment."""
        try:
            if isinstance(error, JournalClosedError):
                return self._opened().record(event, replaces)
            if isinstance(error, UnicodeEncodeError):
                return self._opened().record(_mended(event), replaces)
        except Exception as second:  # the guarded step
            error = second
        self.failed("record", error)
        self.count_dropped("unencodable")
        return False


class _Renewal:
    """What runs in a forked child; holds the recorder weakly, because such a hook is never unregistered."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = weakref.ref(recorder)

    def __call__(self) -> None:
        if recorder := self._recorder():
            recorder._renew()


def _mended(event: UsageEvent) -> UsageEvent:
    """The event with what UTF-8 cannot carry replaced by `?`."""
    changes = {name: _mended_value(value) for name, value in msgspec.structs.asdict(event).items()}
    return UsageEvent(**changes)


def _mended_value(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, tuple | list):
        return tuple(_mended_value(item) for item in value)
    if isinstance(value, dict):
        return {_mended_value(key): _mended_value(item) for key, item in value.items()}
    return value
