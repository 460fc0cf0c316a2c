"""Webhooks: what the app delivers to its customers, an event for each attempt.

    webhook = meter.webhook("https://hooks.acme.com/done", route="transcript.done", caller=Caller("acme", "alice"))
    for _ in range(3):
        with webhook as attempt:                       # or `async with`; each time it is entered is the next attempt
            attempt.answered(post(...).status_code)

The app's exceptions pass untouched; none of ours reaches it. Of the URL only host and path are recorded, and of the
path nothing that looks like a token, since whoever has such a URL may use it.
"""

import re
from _thread import start_new_thread
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from usage_meter.call import Call, Metered
from usage_meter.caller import Caller, Identity
from usage_meter.current import current
from usage_meter.event import id_text

HIDDEN = "***"
_TOKEN = re.compile(r"(?=[^/]*[0-9])(?=[^/]*[A-Za-z])[^/]{16,}|[^/]{32,}")
"""A segment of a path that may be a secret: letters and digits mixed, or longer than words are."""


class Attempt(Call):
    """One attempt to deliver a webhook. What is set after its end corrects what was recorded."""

    outer: "Attempt | None" = None  # in whose midst it was entered

    def __init__(self, meter: Metered, method: str, address: str, identity: Identity) -> None:
        super().__init__(meter, method, address, identity)
        self.event.kind = "webhook"

    def answered(self, status: int, *, response_bytes: int | None = None) -> None:
        """The receiver has answered. Without this, an end without an exception counts as delivered."""
        try:
            self.event.status = int(status)
            if self.event.ttfb_us is None:
                self.event.ttfb_us = self.elapsed_us()
            if response_bytes is not None:
                self.event.response_bytes = int(response_bytes)
        except Exception as error:  # guarded: the values are the app's own
            self.meter.recorder.failed("webhook", error)

    def set(self, /, **values: object) -> None:
        """As `usage.set`, for this attempt."""
        self.fill(values)

    def ended(self, error: BaseException | None = None) -> None:
        """Records the attempt. An exception means that there was no answer, or that the app did not accept it."""
        if error is not None:
            self.outcome = "exception"
            self.event.error = self.event.error or type(error).__name__
        self.finish()


delivering: ContextVar[Attempt | None] = ContextVar("usage_meter_delivering", default=None)
"""The attempt that is entered: an HTTP client of ours tells it what came of it, and makes no event of its own."""


class Webhook:
    """One delivery, of as many attempts as it takes: entered again, it is the next one. See `Meter.webhook`."""

    def __init__(
        self,
        meter: Metered,
        url: object,
        *,
        route: str = "",
        method: str = "POST",
        caller: Caller | None = None,
        attempt: int = 1,
        request_id: str = "",
        values: Mapping[str, object] | None = None,
    ) -> None:
        cause = current.get()  # the call that the webhook is for
        self._meter = meter
        self._address = self._addressed(url)
        self._method = str(method).upper()
        self._identity = self._identified(caller, cause)
        self._next = attempt
        self._entered: list[Attempt] = []  # and not left yet
        self._facts: dict[str, object] = {
            "route": route or self._address,
            "request_id": request_id or (_request_id(cause) if cause else ""),
            "trace_id": cause.event.trace_id if cause else "",
            **(values or {}),
        }

    def begin(self) -> Attempt:
        """The next attempt, without entering it: whoever begins it says how it `ended`."""
        attempt = Attempt(self._meter, self._method, self._address, self._identity)
        attempt.fill({**self._facts, "attempt": str(self._next)})
        attempt.event.request_id = self._facts["request_id"] = _request_id(attempt)  # the same for all attempts
        self._next = self._next + 1 if isinstance(self._next, int) else 1
        return attempt

    def __enter__(self) -> Attempt:
        attempt = self.begin()
        attempt.outer = delivering.get()
        delivering.set(attempt)
        self._entered.append(attempt)
        return attempt

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """It may be left in another context than it was entered in, as a dependency of FastAPI is."""
        attempt = delivering.get()
        if attempt is not None and attempt in self._entered:
            delivering.set(attempt.outer)
        else:
            attempt = self._entered[-1]
        self._entered.remove(attempt)
        attempt.ended(error)

    async def __aenter__(self) -> Attempt:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.__exit__(kind, error, trace)

    def _addressed(self, url: object) -> str:
        try:
            return public_address(str(url))
        except Exception as error:  # guarded: whatever the app takes for a URL
            self._meter.recorder.failed("webhook", error)
            return ""

    def _identified(self, caller: Caller | None, cause: Call | None) -> Identity:
        """The caller's; else that of the call which the webhook is for."""
        try:
            if caller is not None:
                return self._meter.callers.of(caller)
        except Exception as error:  # guarded: the caller is the app's own value
            self._meter.recorder.failed("webhook", error)
        if cause is None:
            return self._meter.callers.anonymous
        event = cause.event
        return Identity(event.workspace, event.user, event.groups, event.api_key, event.api_key_hint)


class Exchange:
    """A request that an HTTP client sends: of the attempt that is entered, or else an attempt of its own."""

    def __init__(self, meter: Metered, method: str, url: object, headers: Mapping[str, Any]) -> None:
        entered = delivering.get()
        if entered is not None and entered.finished:  # a task that was begun within it outlives it
            entered = None
        self._ends = entered is None
        self._attempt = entered or Webhook(meter, url, method=method).begin()
        self._attempt.event.request_bytes += content_length(headers)

    def answered(self, status: int) -> None:
        self._attempt.answered(status)

    def received(self, size: int) -> None:
        self._attempt.event.response_bytes += size

    def ended(self, error: BaseException | None = None) -> None:
        if self._ends:
            self._attempt.ended(error)

    def dropped(self) -> None:
        """The app lets go of the answer. One whose end it has not seen is recorded as `disconnected`.

        This is said when garbage is collected: at any moment, also while this very thread holds a lock that recording
        takes. So another thread records it, started in the one way that takes no lock of Python's.
        """
        if self._ends and not self._attempt.finished:
            with suppress(RuntimeError):  # no more threads, or the interpreter is shutting down: it goes unrecorded
                start_new_thread(self._left, ())

    def _left(self) -> None:
        if not self._attempt.finished:
            self._attempt.outcome = "disconnected"
        self._attempt.ended()


def public_address(url: str) -> str:
    """Host and path of a URL: without user, password, query and fragment, and with its tokens hidden."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return host + "/".join(HIDDEN if _TOKEN.fullmatch(segment) else segment for segment in parts.path.split("/"))


def content_length(headers: Mapping[str, Any]) -> int:
    """What the headers of an HTTP client say; 0 where they say nothing."""
    length = str(headers.get("content-length", ""))
    return int(length) if length.isdecimal() else 0


def _request_id(call: Call) -> str:
    return call.event.request_id or id_text(call.event.id)
