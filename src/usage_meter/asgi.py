"""The door for ASGI apps: Starlette, FastAPI, Litestar, Quart, Django, or none of them.

    app.add_middleware(UsageMeterMiddleware, meter=meter)        # or: app = UsageMeterMiddleware(app, meter=meter)

It looks at the messages that pass and changes none. A call is recorded before its last body bytes are handed to the
server, so that whoever got an answer is counted, whatever happens to this process the moment after. The app's own
exceptions pass untouched; none of ours reaches it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from usage_meter.call import CLIENT_CLOSED, Call, Metered, current
from usage_meter.caller import TEXT_LENGTH, clean
from usage_meter.event import Outcome
from usage_meter.framework import listen
from usage_meter.route import route_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROGRESS_SECONDS = 30.0  # how often an open WebSocket reports: soon enough to be seen, seldom enough to cost nothing
SLOW_SEND_US = 100_000  # a last send that took longer has waited for the client: the duration is corrected by it
PATIENCE_US = 50_000  # in less time few clients leave; to look whether one did costs a turn of the event loop
SWITCHING_PROTOCOLS = 101
BODILESS_METHODS = frozenset(
    {"GET", "HEAD", "OPTIONS"}
)  # a request for which reading ahead asks the client for nothing

NORMAL_CLOSE = frozenset({1000, 1001, 1005})  # done; going away; without a code
SERVER_CLOSE = frozenset({1011, 1012, 1013, 1014})  # the server's own: error, restart, overload, bad gateway
NO_CODE = 1005
ABNORMAL_CLOSE = 1006  # the connection was gone before anybody had closed it

REQUEST_HEADERS = frozenset({b"xi-api-key", b"x-api-key", b"authorization", b"x-request-id", b"traceparent"})
"""All request headers that are ever looked at; names come in lower case from every server."""
REQUEST_ID_HEADERS = frozenset({b"request-id", b"x-request-id", b"Request-Id", b"X-Request-Id", b"X-Request-ID"})
"""Those of the response, which an app may write as it likes; others are looked at only for the size of a file."""


class UsageMeterMiddleware:
    """Records every HTTP request and WebSocket of `app` with `meter`; everything else passes through.

    An open WebSocket reports every `progress_seconds`: the same event with a higher version.
    """

    def __init__(self, app: App, meter: Metered, progress_seconds: float = PROGRESS_SECONDS) -> None:
        self.app = app
        self.meter = meter
        self.progress_seconds = progress_seconds
        self.route_by_path = listen(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self._call(scope, receive, send)
        if call is None:
            await self.app(scope, receive, send)
            return
        outer = current.get()  # comes back at the end: an app may call another one within its own task
        current.set(call)
        try:
            if self.meter.identify is not None:
                await call.ask_later(self.meter.identify, scope)
            call.enter()
            await self.app(scope, call.receive, call.send)
        except BaseException as error:
            call.broke(error)
            raise
        else:
            call.returned()
        finally:
            current.set(outer)

    def _call(self, scope: Scope, receive: Receive, send: Send) -> "HTTPCall | WebSocketCall | None":
        try:
            if scope["type"] == "http":
                return HTTPCall(self, scope, receive, send)
            if scope["type"] == "websocket":
                return WebSocketCall(self, scope, receive, send)
        except Exception as error:  # guarded: a scope that the specification does not know is still the app's to serve
            self.meter.recorder.failed("asgi", error)
        return None


class ASGICall(Call):
    """What requests and WebSockets share: the headers that say who calls, and an end that may come from any side."""

    disconnected = False

    def __init__(self, door: UsageMeterMiddleware, scope: Scope, receive: Receive, send: Send, method: str) -> None:
        found: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in REQUEST_HEADERS:
                found.setdefault(name, value)  # of two, the frameworks take the first
        callers = door.meter.callers
        identity = callers.by_key(_key(found)) if found else callers.anonymous
        super().__init__(door.meter, method, scope["path"], identity)
        self.door = door
        self.scope = scope
        self._receive = receive
        self._send = send
        if b"x-request-id" in found or b"traceparent" in found:
            self.trace(
                found.get(b"x-request-id", b"").decode("latin-1"), found.get(b"traceparent", b"").decode("latin-1")
            )

    def framework_route(self) -> str:
        route = route_of(self.scope)
        return self.door.route_by_path(self.event.path) if route is None else route

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


class HTTPCall(ASGICall):
    """One HTTP request."""

    response_headers: object = ()
    _listening = False  # whether the app waits for what comes next
    _body_read = False
    _ahead: "ReadAhead | None" = None

    def __init__(self, door: UsageMeterMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(door, scope, receive, send, scope["method"])

    async def receive(self) -> Message:
        """The app's `receive`."""
        self._listening = True
        try:
            message = await self._receive()
        finally:
            self._listening = False
        try:
            self._note_received(message)
        except Exception as error:  # guarded: a message that the specification does not know still passes
            self.meter.recorder.failed("asgi", error)
        return message

    def _note_received(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.request":
            self.event.request_bytes += len(message.get("body", b""))
            self._body_read = not message.get("more_body", False)
        elif kind == "http.disconnect" and not self.finished:
            self.disconnected = True

    async def send(self, message: Message) -> None:
        """The app's `send`. What a message means is noted before it leaves, so that an answer is never unrecorded."""
        try:
            last = self._note_sent(message) and not self.finished
        except Exception as error:  # guarded, as above
            last = False
            self.meter.recorder.failed("asgi", error)
        if last:
            if self.event.duration_us > PATIENCE_US:
                await self._look()
            self._finish_answer()
        try:
            await self._send(message)
        except (OSError, asyncio.CancelledError):
            self._lose(last)
            raise
        if last and self.elapsed_us() - self.event.duration_us > SLOW_SEND_US:
            self.event.duration_us = self.elapsed_us()
            self.record()

    def _note_sent(self, message: Message) -> bool:
        """Whether this is the last of the response's body."""
        kind = message["type"]
        if kind == "http.response.body":
            self.sent(len(message.get("body", b"")))
            return not message.get("more_body", False)
        if kind == "http.response.start":
            self.event.status = message["status"]
            self.response_headers = headers = message.get("headers", ())
            if isinstance(headers, (list, tuple)):  # else they can be read only once: that is the server's turn
                for name, value in headers:
                    if name in REQUEST_ID_HEADERS:
                        self.event.request_id = clean(value.decode("latin-1"), TEXT_LENGTH)
        elif kind == "http.response.pathsend":  # the server sends a file by its path
            self.sent(Path(message["path"]).stat().st_size)
            return True
        elif kind == "http.response.zerocopysend":  # the server sends from an open file
            self.sent(message.get("count") or self._content_length())
            return not message.get("more_body", False)
        return False

    def _content_length(self) -> int:
        headers = self.response_headers if isinstance(self.response_headers, (list, tuple)) else ()
        return next((int(value) for name, value in headers if name.lower() == b"content-length"), 0)

    async def _look(self) -> None:
        """Whether the client has left. Few apps ask, and most servers swallow what is sent to nobody.

        An app that listens by itself will know; and one that has not read the body that it was sent may not want it.
        """
        if self.disconnected or self._listening or not (self._body_read or self.event.method in BODILESS_METHODS):
            return
        try:
            if self._ahead is None:
                self._ahead = ReadAhead(self._receive)
                self._receive = self._ahead.receive
            self.disconnected = await self._ahead.client_left()
        except Exception as error:  # guarded: servers differ
            self.meter.recorder.failed("asgi", error)

    def _finish_answer(self) -> None:
        if self.disconnected:
            self.outcome = "disconnected"
        self.finish(self.event.duration_us)

    def _lose(self, last: bool) -> None:
        """A send failed: the client is gone. The last one had been recorded in good faith, which is corrected."""
        if last:
            self.outcome = "disconnected"
            self.record()
        else:
            self.disconnected = self.disconnected or not self.finished

    def broke(self, error: BaseException) -> None:
        if self.finished and isinstance(error, Exception) and not self.exception:
            # The app's outermost layer has answered for the exception, and lets it pass for the server to log.
            self.note_exception(error)
            if self.event.status >= 500:
                self.record()
        self._stop_reading()
        super().broke(error)

    def returned(self) -> None:
        self._stop_reading()
        super().returned()

    def _stop_reading(self) -> None:
        if self._ahead is not None:
            self._ahead.close()


class ReadAhead:
    """Reads what the app has not asked for yet, and keeps it for when it does. For event loops of asyncio."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()
        self._pending: asyncio.Future[Message] | None = None

    async def receive(self) -> Message:
        """The app's `receive`, from now on."""
        if self._kept:
            return self._kept.popleft()
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return await pending
        return await self._receive()

    async def client_left(self) -> bool:
        """Whether the server says so at once. Costs a turn of the event loop or two."""
        asyncio.get_running_loop()  # raises RuntimeError under another kind of event loop
        for _ in range(2):  # an empty body may stand before the news
            if self._pending is None:
                self._pending = asyncio.ensure_future(self._receive())
            await asyncio.sleep(0)
            if not self._pending.done():
                break
            message, self._pending = self._pending.result(), None
            self._kept.append(message)
            if message["type"] == "http.disconnect":
                return True
            if message.get("more_body", False):
                break
        return False

    def close(self) -> None:
        if self._pending is not None:
            self._pending.cancel()


class WebSocketCall(ASGICall):
    """One WebSocket, from its handshake to whoever closes it first; visible all the while by its progress reports."""

    messages_received = 0
    messages_sent = 0
    _busy_depth = 0
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, door: UsageMeterMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(door, scope, receive, send, "WEBSOCKET")
        self._report_later()

    async def receive(self) -> Message:
        """The app's `receive`."""
        message = await self._receive()
        try:
            self._note_received(message)
        except Exception as error:  # guarded: a message that the specification does not know still passes
            self.meter.recorder.failed("asgi", error)
        return message

    def _note_received(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.receive":
            self.messages_received += 1
            self.event.request_bytes += _size(message)
        elif kind == "websocket.disconnect":
            code = message.get("code", NO_CODE)
            self._closed(code, "disconnected" if code == ABNORMAL_CLOSE else "ok")

    async def send(self, message: Message) -> None:
        """The app's `send`. A close is noted before it leaves."""
        try:
            self._note_sent(message)
        except Exception as error:  # guarded, as above
            self.meter.recorder.failed("asgi", error)
        try:
            await self._send(message)
        except OSError:
            self.disconnected = True
            raise

    def _note_sent(self, message: Message) -> None:
        kind = message["type"]
        if kind == "websocket.send":
            self.messages_sent += 1
            self.sent(_size(message))
        elif kind == "websocket.accept":
            self.event.status = SWITCHING_PROTOCOLS
        elif kind == "websocket.close":
            self._close_sent(message.get("code", 1000))
        elif kind == "websocket.http.response.start":
            self.event.status = message["status"]
        elif kind == "websocket.http.response.body":
            self.sent(len(message.get("body", b"")))
            if not message.get("more_body", False):
                self.finish()

    def _close_sent(self, code: int) -> None:
        if not self.event.status:  # before it was accepted: the server refuses the handshake
            self.event.status = 403
            self._closed(code, "client_error")
        elif code in NORMAL_CLOSE:
            self._closed(code, "ok")
        else:
            self._closed(code, "server_error" if code in SERVER_CLOSE else "client_error")

    def _closed(self, code: int, outcome: Outcome) -> None:
        if not self.finished:
            self.event.attributes = {**self.event.attributes, "close_code": str(code)}
            self.end(self.outcome or outcome, CLIENT_CLOSED)

    def returned(self) -> None:
        if self.event.status == SWITCHING_PROTOCOLS and not self.disconnected:
            self._close_sent(1000)  # what the server does for an app that leaves without a word
        super().returned()

    def finish(self, now_us: int | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().finish(now_us)

    def record(self) -> None:
        counts = {"messages_received": float(self.messages_received), "messages_sent": float(self.messages_sent)}
        self.event.quantities = {**self.event.quantities, **counts}
        super().record()

    def _report_later(self) -> None:
        """The next progress report; an event loop that is not asyncio's gets none, and one event at the close."""
        with suppress(RuntimeError):
            self._timer = asyncio.get_running_loop().call_later(self.door.progress_seconds, self._report)

    def _report(self) -> None:
        if not self.finished:
            self.event.duration_us = self.elapsed_us()
            self.record()
            self._report_later()

    def busy(self) -> None:
        """From the first time on, the socket counts only while it is busy."""
        if not self._busy_depth and not self.in_flight and not self.finished:
            self.enter()
        self._busy_depth += 1

    def idle(self) -> None:
        self._busy_depth -= 1
        if not self._busy_depth:
            self.leave()


def _key(found: dict[bytes, bytes]) -> str:
    key = found.get(b"xi-api-key") or found.get(b"x-api-key")
    if key is None and (authorization := found.get(b"authorization")) and authorization[:7].lower() == b"bearer ":
        key = authorization[7:]
    return "" if key is None else key.strip().decode("latin-1")


def _size(message: Message) -> int:
    """Bytes of a WebSocket message's payload."""
    data = message.get("bytes")
    if data is not None:
        return len(data)
    text = message.get("text") or ""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
