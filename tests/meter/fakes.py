"""A meter that keeps its events in a list, for tests of what the doors see; the real one has tests of its own."""

from collections import Counter
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any

from usage_meter.call import Observer
from usage_meter.caller import Caller, Callers, Identify
from usage_meter.cardinality import CardinalityGuard
from usage_meter.event import UsageEvent
from usage_meter.settings import MeterSettings


class ListRecorder:
    """Records into `events`, counts in flight by (workspace, api_key), and keeps each failure."""

    def __init__(self) -> None:
        self.events: list[UsageEvent] = []
        self.replaced: list[UsageEvent | None] = []
        self.calls: dict[bytes, UsageEvent] = {}
        self.failures: list[tuple[str, BaseException]] = []
        self.life: list[str] = []

    def open(self) -> None:
        self.life.append("open")

    def close(self) -> bool:
        self.life.append("close")
        return True

    def record(self, event: UsageEvent, replaces: UsageEvent | None = None) -> bool:
        self.events.append(copy(event))  # a call goes on filling its own
        self.replaced.append(replaces)
        return True

    @property
    def in_flight(self) -> Counter[tuple[str, str]]:
        return Counter((event.workspace, event.api_key) for event in self.calls.values())

    def enter(self, event: UsageEvent) -> None:
        self.calls[event.id] = event

    def leave(self, event: UsageEvent) -> None:
        self.calls.pop(event.id, None)

    def failed(self, kind: str, error: BaseException) -> None:
        self.failures.append((kind, error))


class ListMeter:
    """`events` as recorded; `event` is the only call's newest version."""

    def __init__(self, identify: Identify | None = None, **settings: Any) -> None:
        self.settings = MeterSettings(**{"key_secret": "secret", "workspace": "default", **settings})
        self.identify = identify
        self.observer: Observer | None = None
        self.recorder = ListRecorder()
        self.guard = CardinalityGuard(self.settings.distinct_values)
        self.callers = Callers(self.settings.key_secret, self.settings.workspace, self.guard)

    @property
    def events(self) -> list[UsageEvent]:
        return self.recorder.events

    @property
    def event(self) -> UsageEvent:
        newest = {event.id: event for event in self.events}
        assert len(newest) == 1, f"{len(newest)} calls were recorded"
        return next(iter(newest.values()))

    def failures(self) -> list[str]:
        return [kind for kind, _ in self.recorder.failures]

    def idle(self) -> bool:
        """Whether every call that entered has left."""
        return not self.recorder.calls


def known(caller: Caller | None) -> Callable[[Any], Caller | None]:
    """An `identify` that gives this caller."""
    return lambda scope: caller


def known_later(caller: Caller | None) -> Callable[[Any], Awaitable[Caller | None]]:
    """The same, asynchronous."""

    async def identify(scope: Any) -> Caller | None:
        return caller

    return identify
