"""One WebSocket of an ASGI app: one event, sent again with a higher version while the socket lives."""

import asyncio
from contextlib import suppress

from usage_meter.asgi_call import ASGICall, Door, Message, Receive, Scope, Send
from usage_meter.call import CLIENT_CLOSED
from usage_meter.event import Outcome

SWITCHING_PROTOCOLS = 101

NORMAL_CLOSE = frozenset({1000, 1001, 1005})  # done; going away; without a code
SERVER_CLOSE = frozenset({1011, 1012, 1013, 1014})  # the server's own: error, restart, overload, bad gateway
NO_CODE = 1005
ABNORMAL_CLOSE = 1006  # the connection was gone before anybody had closed it


class WebSocketCall(ASGICall):
    """One WebSocket, from its handshake to whoever closes it first; visible all the while by its progress reports."""

    messages_received = 0
    messages_sent = 0
    _busy_depth = 0
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(door, scope, receive, send)
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
        if not self._busy_depth and not self.finished:
            self.enter()
        self._busy_depth += 1

    def idle(self) -> None:
        self._busy_depth -= 1
        if not self._busy_depth:
            self.leave()


def _size(message: Message) -> int:
    """Bytes of a WebSocket message's payload."""
    data = message.get("bytes")
    if data is not None:
        return len(data)
    text = message.get("text") or ""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
