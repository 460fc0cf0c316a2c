"""One call: its state from the first byte to the last, and how that becomes an event.

The doors (`asgi`, `wsgi`, …) make one `Call` each and tell it what they see; `usage` (in `current`) is how the app adds
what only it knows. What arrives after the event was recorded (a background task that sets the credits) sends the same
event with the next version, which replaces it.

Nothing here raises into the app: what cannot be used is counted and logged once for its kind.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from enum import Enum
from inspect import isawaitable
from itertools import count
from math import isfinite
from numbers import Number
from time import perf_counter_ns, time_ns
from typing import Any, Protocol, SupportsFloat, TypeVar, cast, get_args
from uuid import UUID

import msgspec

from usage_meter.caller import TEXT_LENGTH, Caller, Callers, Identify, Identity, clean
from usage_meter.cardinality import OTHER
from usage_meter.event import Outcome, UsageEvent, new_id, outcome_of, to_micro

T = TypeVar("T")

# Lengths in characters. Longer texts are cut: they come from clients, and each event has to stay small.
PATH_LENGTH = 2048
ATTRIBUTE_LENGTH = 1024
NAME_LENGTH = 64  # of a quantity or an attribute
NAMES_PER_CALL = 64  # quantities and attributes each: more is a mistake in a loop, not a set of dimensions

CLIENT_CLOSED = 499  # of a call whose client left before a status was sent; nginx made the number customary

DIMENSIONS = frozenset({"product", "voice", "model", "region", "source", "route", "error"})
IDENTIFIERS = frozenset({"user", "request_id", "trace_id"})
"""The texts that `usage.set` takes by name; what is no such name is a quantity or an attribute. A dimension may take
only so many new values a minute, an identifier any."""

OUTCOMES: frozenset[str] = frozenset(get_args(Outcome))
METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "TRACE", "CONNECT", "WEBSOCKET"}
    | {"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH"}
)
"""A client may send any word as its method: another than these is recorded as `__other__`."""


class Recorder(Protocol):
    """What the doors need of the recorder; it never raises. `open` and `close` may wait, the others do not."""

    def open(self) -> None: ...
    def close(self) -> bool: ...
    def record(self, event: UsageEvent, replaces: UsageEvent | None = None) -> bool: ...
    def enter(self, event: UsageEvent) -> None: ...
    def leave(self, event: UsageEvent) -> None: ...
    def failed(self, kind: str, exception: BaseException) -> None: ...


class Metered(Protocol):
    """What a door needs of the `Meter`."""

    @property
    def identify(self) -> Identify | None: ...
    @property
    def recorder(self) -> Recorder: ...
    @property
    def callers(self) -> Callers: ...
    @property
    def observer(self) -> "Observer | None": ...


class Observer(Protocol):
    """Looks on as calls pass, such as `usage_meter.otel`. What it raises is counted, and does not reach the app."""

    def began(self, call: "Call") -> None:
        """Its caller is known, its handler comes next."""

    def recording(self, call: "Call") -> None:
        """It is about to be recorded, or corrected: the event may still be added to."""

    def ended(self, call: "Call") -> None:
        """It was recorded for the first time."""


class Call:
    """The state of one call: its event, filled by its door and by `usage`, and what is needed on the way there.

    What most calls leave as it is stands at the class: to set it for each would be a good part of a call's price.
    """

    outcome: Outcome | None = None  # None: it follows from the status
    exception = ""
    finished = False
    credits_recorded: int | None = None  # of the newest version; None: there is none yet
    span: Any = None  # what an observer remembers of it

    def __init__(self, meter: Metered, method: str, path: str, identity: Identity) -> None:
        self.started_ns = perf_counter_ns()
        self.meter = meter
        started_us = time_ns() // 1000
        workspace, user, groups, api_key, api_key_hint = identity
        self.event = UsageEvent(
            id=new_id(started_us),
            started_us=started_us,
            workspace=workspace,
            user=user,
            groups=groups,
            api_key=api_key,
            api_key_hint=api_key_hint,
            method=method if method in METHODS else OTHER,
            path=path if len(path) <= TEXT_LENGTH and path.isascii() else clean(path, PATH_LENGTH),
        )

    # What the doors tell.

    def begin(self) -> None:
        """It is served from now on."""
        if self.meter.observer is not None:
            self._show(self.meter.observer.began)
        self.meter.recorder.enter(self.event)

    def enter(self) -> None:
        """Counts the call as in flight, for its caller. Harmless when it is counted."""
        self.meter.recorder.enter(self.event)

    def leave(self) -> None:
        """Counts it no more. Harmless when it is not counted."""
        self.meter.recorder.leave(self.event)

    def elapsed_us(self) -> int:
        return (perf_counter_ns() - self.started_ns) // 1000

    def framework_route(self) -> str:
        """The route's template as the framework knows it; each door has its own way."""
        return ""

    def scheme(self) -> str:
        """`http` or `https`, as far as the door knows it."""
        return ""

    def sent(self, size: int) -> None:
        """So many bytes of the response's body are on their way. In answer to HEAD a server sends none."""
        event = self.event
        event.duration_us = now_us = (perf_counter_ns() - self.started_ns) // 1000
        if size and event.method != "HEAD":
            event.response_bytes += size
            if event.ttfb_us is None:
                event.ttfb_us = now_us

    def finish(self, now_us: int | None = None) -> None:
        """The last byte is on its way: the call leaves, its event is recorded. Only the first finish counts."""
        if self.finished:
            return
        event, recorder = self.event, self.meter.recorder
        event.duration_us = self.elapsed_us() if now_us is None else now_us
        recorder.leave(event)
        self.finished = True  # before it is recorded: whatever is set from now on sends it again
        self.record()
        if self.meter.observer is not None:
            self._show(self.meter.observer.ended)

    def record(self) -> None:
        """Records the call as it is now; each time with the next version, which replaces the one before."""
        event = self.event
        replaced = None if self.credits_recorded is None else self._replaced(event)
        self.credits_recorded = event.credits_micro
        try:
            if not event.route:
                event.route = self.framework_route()
            if self.outcome is not None or event.status >= 400:  # else it is `ok`, as every event begins
                self._conclude(event)
            if self.meter.observer is not None:
                self._show(self.meter.observer.recording)
            self.meter.recorder.record(event, replaced)
        except Exception as error:  # guarded: a framework's routes may be of any kind
            self.meter.recorder.failed("event", error)

    def _conclude(self, event: UsageEvent) -> None:
        """How it ended, when that is not well."""
        event.outcome = self.outcome or outcome_of(event.status)
        if self.exception and event.status >= 500:
            event.outcome = self.outcome or "exception"
            event.error = event.error or self.exception

    def _show(self, look: Callable[["Call"], None]) -> None:
        try:
            look(self)
        except Exception as error:  # guarded: what looks on is not ours alone
            self.meter.recorder.failed("observer", error)

    def _replaced(self, event: UsageEvent) -> UsageEvent:
        """What the next version replaces, as far as it matters to the recorder: with the credits of then."""
        before = msgspec.structs.replace(event, credits_micro=self.credits_recorded)
        # Both steps are atomic: of two threads, the one with the higher version has seen what both have set.
        versions: Iterator[int] = self.__dict__.setdefault("versions", count(2))
        event.version = next(versions)
        return before

    def note_exception(self, error: BaseException) -> None:
        """The app has raised, and its framework makes a response of it. If that is a 500, it was the exception's."""
        self.exception = type(error).__name__

    def trace(self, request_id: str | None, traceparent: str | None) -> None:
        """Takes the ids that the client gave: `traceparent` is `00-<trace id>-<span id>-<flags>`."""
        if request_id:
            self.event.request_id = clean(request_id, TEXT_LENGTH)
        if traceparent and len(traceparent) >= 55 and traceparent[35] == "-":
            self.event.trace_id = clean(traceparent[3:35], TEXT_LENGTH)

    def read_headers(self, environ: Mapping[str, Any]) -> None:
        """Takes what a WSGI environ says of the request: by these headers alone, and no other."""
        request_id, traceparent = environ.get("HTTP_X_REQUEST_ID"), environ.get("HTTP_TRACEPARENT")
        if request_id or traceparent:
            self.trace(request_id, traceparent)
        length = environ.get("CONTENT_LENGTH")
        if length and length.isdecimal():
            self.event.request_bytes = int(length)

    def ask(self, identify: Identify, source: object) -> None:
        """Asks the app who calls. When it does not know (None), or fails, the key alone says it."""
        try:
            self._answered_by(identify(source))
        except Exception as error:  # guarded: `identify` is the app's own code
            self.meter.recorder.failed("identify", error)

    async def ask_later(self, identify: Identify, source: object) -> None:
        """The same, of an `identify` that may be asynchronous."""
        try:
            answer = identify(source)
            self._answered_by(await answer if isawaitable(answer) else answer)
        except Exception as error:  # guarded, as above
            self.meter.recorder.failed("identify", error)

    def _answered_by(self, caller: object) -> None:
        if caller is not None:
            self.called_by(self.meter.callers.of(caller))

    def called_by(self, identity: Identity) -> None:
        event = self.event
        event.workspace, event.user, event.groups, event.api_key, event.api_key_hint = identity

    # What the app tells, by way of `usage`.

    def fill(self, values: Mapping[str, object]) -> None:
        """Takes what it can use; a strange value is counted and logged once, and the others are still taken."""
        for name, value in values.items():
            try:
                self._set(name, value)
            except Exception as error:  # guarded: the values are the app's own, down to their __str__ and __float__
                self.meter.recorder.failed("usage.set", error)
        if self.finished:
            self.record()

    def _set(self, name: str, value: object) -> None:
        event, admit = self.event, self.meter.callers.guard.admit
        if value is None:
            return
        if name == "credits":
            event.credits_micro = _micro(value)
        elif name in DIMENSIONS:
            setattr(event, name, admit(name, _text(name, value, TEXT_LENGTH)))
        elif name in IDENTIFIERS:
            setattr(event, name, _text(name, value, TEXT_LENGTH))
        elif name == "outcome":
            if value not in OUTCOMES:
                raise ValueError(f"outcome is {value!r}: must be one of {', '.join(sorted(OUTCOMES))}")
            self.outcome = cast(Outcome, value)
        elif isinstance(value, Number) and not isinstance(value, bool):
            name = admit("quantity", clean(name, NAME_LENGTH))
            event.quantities = _with(event.quantities, name, _finite(name, value))
        else:
            name = admit("attribute", clean(name, NAME_LENGTH))
            event.attributes = _with(event.attributes, name, _text(name, value, ATTRIBUTE_LENGTH))

    def identify(self, caller: Caller) -> None:
        """Names the caller; from now on the call is in flight for that one.

        An event replaces its earlier version only within its workspace, so once one was recorded that one is fixed.
        """
        try:
            identity = self.meter.callers.of(caller)
            if self.credits_recorded is not None and identity.workspace != self.event.workspace:
                raise ValueError("usage.identify came after the call was recorded: its workspace stays as it was")
        except Exception as error:  # guarded: the caller is the app's own value
            self.meter.recorder.failed("usage.identify", error)
            return
        self.called_by(identity)
        if self.finished:
            self.record()

    def busy(self) -> None:
        """Work for the caller begins. Only a WebSocket can be idle: every other call counts for its whole life."""

    def idle(self) -> None:
        """The work that `busy` announced is done."""


def _text(name: str, value: object, length: int) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, Number, UUID, date)):
        raise TypeError(f"{name} is a {type(value).__name__}: must be a text or a number")
    return clean(str(value), length)


def _finite(name: str, value: object) -> float:
    number = float(cast(SupportsFloat, value))
    if not isfinite(number):
        raise ValueError(f"{name} is {number}: must be a finite number")
    return number


def _micro(credits: object) -> int:
    if not isinstance(credits, (int, float, Decimal, str)):  # another library's number, such as NumPy's
        credits = credits.__index__() if hasattr(credits, "__index__") else float(cast(SupportsFloat, credits))
    return to_micro(credits)


def _with(values: dict[str, T], name: str, value: T) -> dict[str, T]:
    """The values and one more, as a new dictionary: an event that has the old one stays as it was."""
    if len(values) >= NAMES_PER_CALL and name not in values:
        raise ValueError(f"{name} is one name too many: a call takes {NAMES_PER_CALL} quantities and attributes each")
    return {**values, name: value}
