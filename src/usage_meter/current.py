"""The current call, and `usage`: how a handler adds to it what only the app knows.

The call hangs on a context variable as one shared object, so that a thread or task that inherits the context fills
the same call, also after the response has started.
"""

import logging
from contextvars import ContextVar

from usage_meter.call import Call
from usage_meter.caller import Caller

logger = logging.getLogger("usage_meter")

current: ContextVar[Call | None] = ContextVar("usage_meter_call", default=None)
"""The call that this task or thread works for."""


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
        `source`, `user`, `route`, `error`, `request_id`, `trace_id` and `outcome` by name; any other number is a
        quantity, any other text (or true and false) an attribute; None is skipped.
        """
        if call := self._call("set"):
            call.fill(values)

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


usage = Usage()
