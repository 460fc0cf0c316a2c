"""One HTTP request of an ASGI app, told by the messages that pass.

It is recorded before its last body bytes are handed to the server, so that whoever got an answer is counted, whatever
happens to this process the moment after.
"""

import asyncio
from pathlib import Path

from usage_meter.asgi_call import ASGICall, Message
from usage_meter.caller import TEXT_LENGTH, clean
from usage_meter.current import current
from usage_meter.read_ahead import ReadAhead

SLOW_SEND_US = 100_000  # a last send that took longer has waited for the client: the duration is corrected by it
PATIENCE_US = 50_000  # in less time few clients leave; to look whether one did costs a turn of the event loop
BODILESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})  # reading ahead asks the client of such a request for nothing
REQUEST_ID_HEADERS = frozenset({b"request-id", b"x-request-id", b"Request-Id", b"X-Request-Id", b"X-Request-ID"})
"""Those of the response, which an app may write as it likes; others are looked at only for the size of a file."""


class HTTPCall(ASGICall):
    """One HTTP request."""

    response_headers: object = ()
    _listening = False  # whether the app waits for what comes next
    _body_read = False
    _ahead: "ReadAhead | None" = None

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
        """The app's `send`. What a message means is noted before it leaves, so that an answer is never unrecorded; with
        the last the call is recorded, and corrected when its client then turns out to be gone, or slow."""
        try:
            last = self._note_sent(message) and not self.finished
        except Exception as error:  # guarded, as above
            last = False
            self.meter.recorder.failed("asgi", error)
        if last:
            if self.event.duration_us > PATIENCE_US:
                await self._look()
            if self.disconnected:
                self.outcome = "disconnected"
            self.finish(self.event.duration_us)
            # With its last bytes a server sets its timer for the connection, and that keeps this context until the
            # next request: with the call in it, a few connections would keep the garbage collector busy.
            current.set(self.outer)
        try:
            await self._send(message)
        except (OSError, asyncio.CancelledError):
            self._client_gone(last)
            raise
        finally:
            if last:
                current.set(self)  # a background task may still add to it
        if last and (sent_us := self.elapsed_us()) - self.event.duration_us > SLOW_SEND_US:
            self.event.duration_us = sent_us
            self.record()

    def _client_gone(self, last: bool) -> None:
        if last:  # recorded in good faith
            self.outcome = "disconnected"
            self.record()
        elif not self.finished:
            self.disconnected = True

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

    def broke(self, error: BaseException) -> None:
        if self.finished and isinstance(error, Exception) and not self.exception:
            # The app's outermost layer has answered for the exception, and lets it pass for the server to log.
            self.note_exception(error)
            if self.event.status >= 500:
                self.record()
        self._stop_reading()
        super().broke(error)

    def returned(self) -> None:
        if not self.finished or self._ahead is not None:
            self._stop_reading()
            super().returned()

    def _stop_reading(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
