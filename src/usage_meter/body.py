"""The body of a response that its server pulls chunk by chunk: WSGI's iterables and Django's streams.

A call is recorded before its last chunk is handed out, when that is known to be the last (by the content length, or
because there is no more), so that whoever got an answer is counted. What was recorded in good faith is corrected when
the server then closes the body without having asked for its end: the client was gone.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from usage_meter.call import Call
from usage_meter.current import current

BODILESS = (204, 304)  # statuses whose response ends with its headers: nobody asks for the end of a body


class BodyCall(Call):
    """A call whose response is pulled."""

    content_length: int | None = None
    exhausted = False

    def sent(self, size: int) -> None:
        super().sent(size)
        if self.event.response_bytes == self.content_length:
            self.finish()

    def ended(self) -> None:
        """The body has no more."""
        self.exhausted = True
        self.finish()

    def closed(self) -> None:
        """The server is done. A body that it did not ask for its end was cut short, unless there was none."""
        cut = not self.exhausted and self.event.method != "HEAD" and self.event.status not in BODILESS
        if cut and self.outcome is None:
            self.outcome = "disconnected"
            if self.finished:
                self.record()
        self.finish()

    def broke(self, error: BaseException) -> None:
        """The app raised, before its response or in the midst of it."""
        if self.finished:
            return
        if not self.event.response_bytes:
            self.event.status = 500  # what the server makes of it: no header has left yet
        self.outcome = "exception"
        self.event.error = self.event.error or type(error).__name__
        self.finish()


class Chunks:
    """A body on its way to the server. While the app makes a chunk, its call is the current one."""

    __slots__ = ("_body", "_call", "_chunks")

    def __init__(self, call: BodyCall, body: Iterable[bytes]) -> None:
        self._call = call
        self._body = body
        self._chunks = iter(body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        call = self._call
        outer = current.get()
        current.set(call)
        try:
            chunk = next(self._chunks)
        except StopIteration:
            call.ended()
            raise
        except BaseException as error:
            call.broke(error)
            raise
        finally:
            current.set(outer)
        _count(call, chunk)
        return chunk

    def close(self) -> None:
        outer = current.get()
        current.set(self._call)
        try:
            self._call.closed()
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            current.set(outer)


class SizedChunks(Chunks):
    """The same, of a body that knows its number of chunks: a server asks for it, to know the length of a single one."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]  # only such a body is put here

    def __bool__(self) -> bool:
        return True


class LaterChunks:
    """An asynchronous body. Django calls `close` at the end; to close the generator itself is the event loop's part."""

    __slots__ = ("_call", "_chunks")

    def __init__(self, call: BodyCall, body: AsyncIterable[bytes]) -> None:
        self._call = call
        self._chunks = aiter(body)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        call = self._call
        outer = current.get()
        current.set(call)
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            call.ended()
            raise
        except Exception as error:
            call.broke(error)
            raise
        finally:
            current.set(outer)
        _count(call, chunk)
        return chunk

    def close(self) -> None:
        self._call.closed()


def _count(call: BodyCall, chunk: Any) -> None:
    try:
        call.sent(len(chunk))
    except Exception as error:  # guarded: a chunk that is no bytes is the server's to judge
        call.meter.recorder.failed("body", error)
