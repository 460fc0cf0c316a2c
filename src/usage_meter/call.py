"""One call: its state from the first byte to the last, and how that becomes an event.

The doors (`asgi`, `wsgi`, …) make one `Call` each and tell it what they see; `usage` is how the app adds what only it
knows. The current call hangs on a context variable as one shared object, so that a thread or task that inherits the
context fills the same call, also after the response has started. What arrives after the event was recorded (a
background task that sets the credits) sends the same event with the next version, which replaces it.

Nothing here raises into the app: what cannot be used is counted and logged once for its kind.
"""

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
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

from usage_meter.caller import TEXT_LENGTH, Caller, Callers, Identify, clean, sent_key
from usage_meter.event import Outcome, UsageEvent, new_id, outcome_of, to_micro
from usage_meter.settings import MeterSettings

T = TypeVar("T")

logger = logging.getLogger("usage_meter")

# Lengths in characters. Longer texts are cut: they come from clients, and each event has to stay small.
PATH_LENGTH = 2048
ATTRIBUTE_LENGTH = 1024
NAME_LENGTH = 64  # of a quantity or an attribute
NAMES_PER_CALL = 64  # quantities and attributes each: more is a mistake in a loop, not a set of dimensions

CLIENT_CLOSED = 499  # of a call whose client left before a status was sent; nginx made the number customary

DIMENSIONS = frozenset({"product", "voice", "model", "region", "source", "user", "route", "error", "request_id"})
"""The texts that `usage.set` takes by name, besides `credits` and `outcome`; others are quantities or attributes."""

OUTCOMES: frozenset[str] = frozenset(get_args(Outcome))
METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "TRACE", "CONNECT", "WEBSOCKET"}
    | {"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH"}
)
OTHER = "__other__"
"""Stands for a method that is none: clients may send any word, and each would be a value of the dimension."""


class Recorder(Protocol):
    """What a call needs of the recorder: cheap, and never raising."""

    @property
    def instance(self) -> str: ...
    def record(self, event: UsageEvent, replaces: UsageEvent | None = None) -> bool: ...
    def enter(self, workspace: str, api_key: str) -> None: ...
    def leave(self, workspace: str, api_key: str) -> None: ...
    def failed(self, kind: str, exception: BaseException) -> None: ...


class Metered(Protocol):
    """What a door needs of the `Meter`."""

    @property
    def settings(self) -> MeterSettings: ...
    @property
    def identify(self) -> Identify | None: ...
    @property
    def recorder(self) -> Recorder: ...


class Call:
    """The state of one call, filled by its door and by `usage`."""

    __slots__ = (
        "attributes",
        "caller",
        "callers",
        "credits_micro",
        "duration_us",
        "error",
        "exception",
        "finished",
        "id",
        "in_flight",
        "method",
        "model",
        "outcome",
        "path",
        "product",
        "quantities",
        "recorded",
        "recorder",
        "region",
        "request_bytes",
        "request_id",
        "response_bytes",
        "route",
        "source",
        "started_ns",
        "started_us",
        "status",
        "trace_id",
        "ttfb_us",
        "versions",
        "voice",
    )

    def __init__(self, recorder: Recorder, callers: Callers, method: str, path: str) -> None:
        self.started_ns = perf_counter_ns()
        self.started_us = started_us = time_ns() // 1000
        self.id = new_id(started_us)
        self.versions = count(1)  # `next` is atomic: of two threads, the one with the higher version has seen both
        self.recorder = recorder
        self.callers = callers
        self.caller = callers.anonymous
        self.method = method if method in METHODS else OTHER
        self.path = path if len(path) <= TEXT_LENGTH and path.isascii() else clean(path, PATH_LENGTH)
        self.duration_us = 0
        self.ttfb_us: int | None = None
        self.status = 0
        self.outcome: Outcome | None = None  # None: it follows from the status
        self.request_bytes = self.response_bytes = self.credits_micro = 0
        self.product = self.voice = self.model = self.region = self.source = self.error = self.exception = ""
        self.route = ""  # as the app sets it; else the door asks the framework
        self.request_id = self.trace_id = ""
        self.quantities: dict[str, float] | None = None
        self.attributes: dict[str, str] | None = None
        self.in_flight = self.finished = False
        self.recorded: UsageEvent | None = None  # the newest version

    # What the doors tell.

    def enter(self) -> None:
        """Counts the call as in flight, for its caller."""
        self._count(self.recorder.enter)
        self.in_flight = True

    def leave(self) -> None:
        """Counts it no more. Harmless when it is not counted."""
        if self.in_flight:
            self.in_flight = False
            self._count(self.recorder.leave)

    def _count(self, step: Callable[[str, str], None]) -> None:
        try:
            step(self.caller.workspace, self.caller.api_key)
        except Exception as error:  # guarded: the recorder may have to open its journal first
            self.recorder.failed("in flight", error)

    def elapsed_us(self) -> int:
        return (perf_counter_ns() - self.started_ns) // 1000

    def framework_route(self) -> str:
        """The route's template as the framework knows it; each door has its own way."""
        return ""

    def finish(self) -> None:
        """The last byte is on its way: the call leaves, its event is recorded. Only the first finish counts."""
        if self.finished:
            return
        self.duration_us = self.elapsed_us()
        self.leave()
        self.finished = True  # before the event is made: whatever is set from now on sends it again
        self.record()

    def record(self) -> None:
        """Records the call as it is now; each time with the next version, which replaces the one before."""
        try:
            event = self.event(next(self.versions))
            before, self.recorded = self.recorded, event
            self.recorder.record(event, before)
        except Exception as error:  # guarded: the event holds what the app set, and its framework's routes
            self.recorder.failed("event", error)

    def event(self, version: int) -> UsageEvent:
        workspace, user, groups, api_key, api_key_hint = self.caller
        return UsageEvent(
            id=self.id,
            version=version,
            started_us=self.started_us,
            duration_us=self.duration_us,
            ttfb_us=self.ttfb_us,
            workspace=workspace,
            user=user,
            groups=groups,
            api_key=api_key,
            api_key_hint=api_key_hint,
            product=self.product,
            voice=self.voice,
            model=self.model,
            region=self.region,
            source=self.source,
            method=self.method,
            route=self.route or self.framework_route(),
            path=self.path,
            status=self.status,
            outcome=self.outcome or self._outcome(),
            error=self.error or (self.exception if self.status >= 500 else ""),
            request_bytes=self.request_bytes,
            response_bytes=self.response_bytes,
            credits_micro=self.credits_micro,
            quantities=self.quantities or {},
            attributes=self.attributes or {},
            request_id=self.request_id or _uuid_text(self.id),
            trace_id=self.trace_id,
            instance=self.recorder.instance,
        )

    def trace(self, request_id: str | None, traceparent: str | None) -> None:
        """Takes the ids that the client gave: `traceparent` is `00-<trace id>-<span id>-<flags>`."""
        if request_id:
            self.request_id = clean(request_id, TEXT_LENGTH)
        if traceparent and len(traceparent) >= 55 and traceparent[35] == "-":
            self.trace_id = clean(traceparent[3:35], TEXT_LENGTH)

    def read_headers(self, environ: Mapping[str, Any]) -> None:
        """Takes what a WSGI environ says of the caller and the request: by these headers alone, and no other."""
        key = sent_key(environ.get("HTTP_XI_API_KEY"), environ.get("HTTP_X_API_KEY"), environ.get("HTTP_AUTHORIZATION"))
        self.caller = self.callers.by_key(key)
        self.trace(environ.get("HTTP_X_REQUEST_ID"), environ.get("HTTP_TRACEPARENT"))
        length = environ.get("CONTENT_LENGTH") or ""
        self.request_bytes = int(length) if length.isdecimal() else 0

    def ask(self, identify: Identify, source: object) -> None:
        """Asks the app who calls. When it does not know (None), or fails, the key alone says it."""
        try:
            self._answered_by(identify(source))
        except Exception as error:  # guarded: `identify` is the app's own code
            self.recorder.failed("identify", error)

    async def ask_later(self, identify: Identify, source: object) -> None:
        """The same, of an `identify` that may be asynchronous."""
        try:
            answer = identify(source)
            self._answered_by(await answer if isawaitable(answer) else answer)
        except Exception as error:  # guarded, as above
            self.recorder.failed("identify", error)

    def _answered_by(self, caller: object) -> None:
        if caller is not None:
            self.caller = self.callers.of(caller)

    def sent(self, size: int) -> None:
        """So many bytes of the response's body are on their way. In answer to HEAD a server sends none."""
        if size and self.method != "HEAD":
            if self.ttfb_us is None:
                self.ttfb_us = self.elapsed_us()
            self.response_bytes += size

    def note_exception(self, error: BaseException) -> None:
        """The app has raised, and its framework makes a response of it. If that is a 500, it was the exception's."""
        self.exception = type(error).__name__

    def _outcome(self) -> Outcome:
        return "exception" if self.exception and self.status >= 500 else outcome_of(self.status)

    # What the app tells, by way of `usage`.

    def set(self, values: Mapping[str, object]) -> None:
        """Takes what it can use; a strange value is counted and logged once, and the others are still taken."""
        for name, value in values.items():
            try:
                self._set(name, value)
            except Exception as error:  # guarded: the values are the app's own, down to their __str__ and __float__
                self.recorder.failed("usage.set", error)
        if self.finished:
            self.record()

    def _set(self, name: str, value: object) -> None:
        if value is None:
            return
        if name == "credits":
            self.credits_micro = _micro(value)
        elif name == "user":
            self.caller = self.caller._replace(user=_text(name, value, TEXT_LENGTH))
        elif name in DIMENSIONS:
            setattr(self, name, _text(name, value, TEXT_LENGTH))
        elif name == "outcome":
            if value not in OUTCOMES:
                raise ValueError(f"outcome is {value!r}: must be one of {', '.join(sorted(OUTCOMES))}")
            self.outcome = cast(Outcome, value)
        elif isinstance(value, Number) and not isinstance(value, bool):
            self.quantities = _with(self.quantities, name, _finite(name, value))
        else:
            self.attributes = _with(self.attributes, name, _text(name, value, ATTRIBUTE_LENGTH))

    def identify(self, caller: Caller) -> None:
        """Names the caller, and moves the count of calls in flight to it.

        An event replaces its earlier version only within its workspace, so once one was recorded that one is fixed.
        """
        try:
            identity = self.callers.of(caller)
            if self.recorded and identity.workspace != self.caller.workspace:
                raise ValueError("usage.identify came after the call was recorded: its workspace stays as it was")
        except Exception as error:  # guarded: the caller is the app's own value
            self.recorder.failed("usage.identify", error)
            return
        counted = self.in_flight
        self.leave()
        self.caller = identity
        if counted:
            self.enter()
        if self.finished:
            self.record()

    def busy(self) -> None:
        """Work for the caller begins. Only a WebSocket can be idle: every other call counts for its whole life."""

    def idle(self) -> None:
        """The work that `busy` announced is done."""


class Busy:
    """What `usage.busy()` gives: a context manager, with `with` and with `async with`."""

    __slots__ = ("_call",)

    def __init__(self, call: Call | None) -> None:
        self._call = call

    def __enter__(self) -> None:
        if self._call:
            self._call.busy()

    def __exit__(self, *error: object) -> None:
        if self._call:
            self._call.idle()

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self.__exit__()


class Usage:
    """How a handler adds to its own call what only it knows. Never raises; outside of a call it does nothing."""

    def __init__(self) -> None:
        self._warned = False

    def set(self, /, **values: object) -> None:
        """Adds to the current call; may be called again, later and from anywhere the context reaches.

        `credits` (int, float, Decimal or str), the event's dimensions `product`, `voice`, `model`, `region`,
        `source`, `user`, `route`, `error`, `request_id` and `outcome` by name; any other number is a quantity, any
        other text (or true and false) an attribute; None is skipped.
        """
        if call := self._call("set"):
            call.set(values)

    def identify(self, caller: Caller) -> None:
        """Names the caller of the current call, after the app's own authentication."""
        if call := self._call("identify"):
            call.identify(caller)

    def busy(self) -> Busy:
        """While it is entered (`with` or `async with`), the current WebSocket counts as a concurrent call.

        A socket that never enters it counts for its whole life.
        """
        return Busy(self._call("busy"))

    def _call(self, what: str) -> Call | None:
        call = current.get()
        if call is None and not self._warned:
            self._warned = True
            logger.warning("usage.%s was called outside of a call: it does nothing there (logged once)", what)
        return call


current: ContextVar[Call | None] = ContextVar("usage_meter_call", default=None)
"""The call that this task or thread works for."""

usage = Usage()


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


def _with(values: dict[str, T] | None, name: str, value: T) -> dict[str, T]:
    """The values and one more, as a new dictionary: an event that was made of the old one stays as it was."""
    if values is None:
        return {clean(name, NAME_LENGTH): value}
    if len(values) >= NAMES_PER_CALL and name not in values:
        raise ValueError(f"{name} is one name too many: a call takes {NAMES_PER_CALL} quantities and attributes each")
    return {**values, clean(name, NAME_LENGTH): value}


def _uuid_text(id: bytes) -> str:
    text = id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
