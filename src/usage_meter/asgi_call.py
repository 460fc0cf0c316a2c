"""What a request and a WebSocket of an ASGI app have in common: the words of the protocol, the headers that say who
calls, and an end that may come from any side.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from usage_meter.call import CLIENT_CLOSED, Call, Metered
from usage_meter.event import Outcome
from usage_meter.framework import RouteByPath
from usage_meter.route import route_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


READ = frozenset({b"xi-api-key", b"x-api-key", b"authorization", b"x-request-id", b"traceparent"})
"""Of a request's headers only these are ever looked at. Names come in lower case from every server."""


class Door(Protocol):
    """The middleware, as far as a call has to know it."""

    meter: Metered
    progress_seconds: float
    route_by_path: RouteByPath


class ASGICall(Call):
    """What requests and WebSockets share: the headers that say who calls, and an end that may come from any side."""

    disconnected = False
    outer: Call | None = None  # in whose midst it was made

    def __init__(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        self.door = door
        self.scope = scope
        self._receive = receive
        self._send = send
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in READ and name not in headers:  # of two alike, the frameworks take the first
                headers[name] = value
        identity = door.meter.callers.by_key(headers.get(b"xi-api-key") or _other_key(headers))
        method = scope["method"] if scope["type"] == "http" else "WEBSOCKET"
        Call.__init__(self, door.meter, method, scope["path"], identity)  # `super()` is an object more per call
        if b"x-request-id" in headers or b"traceparent" in headers:
            self.trace(
                headers.get(b"x-request-id", b"").decode("latin-1"), headers.get(b"traceparent", b"").decode("latin-1")
            )

    def framework_route(self) -> str:
        route = route_of(self.scope)
        return self.door.route_by_path(self.event.path) if route is None else route

    def scheme(self) -> str:
        return str(self.scope.get("scheme", ""))

    def broke(self, error: BaseException) -> None:
        """The app raised, or was cancelled."""
        cancelled = not isinstance(error, (Exception, SystemExit, KeyboardInterrupt))
        name = "" if cancelled else type(error).__name__
        if self.disconnected or cancelled:
            self.end("disconnected", CLIENT_CLOSED, name)
        else:
            self.end("exception", 500, name)  # the status that the server makes of it

    def returned(self) -> None:
        """The app is done. What it left open, the server answers with a 500 or cuts off."""
        if self.disconnected:
            self.end("disconnected", CLIENT_CLOSED)
        else:
            self.end("server_error", 500, "IncompleteResponse")

    def end(self, outcome: Outcome, status: int, error: str = "") -> None:
        """An end that the app has not told by itself; `status` and `error` stand in where none is known yet."""
        if self.finished:
            return
        self.outcome = outcome
        self.event.status = self.event.status or status
        self.event.error = self.event.error or error
        self.finish()


def _other_key(headers: dict[bytes, bytes]) -> bytes:
    key = headers.get(b"x-api-key")
    if not key and (authorization := headers.get(b"authorization")) and authorization[:7].lower() == b"bearer ":
        key = authorization[7:]
    return key or b""
