"""The door for WSGI apps: Flask, Falcon, Django, or none of them.

    app.wsgi_app = UsageMeterMiddleware(app.wsgi_app, meter=meter)    # or: app = UsageMeterMiddleware(app, meter=meter)

The response passes chunk by chunk as the app makes it: nothing is buffered, and a server's own file wrapper stays
what it is, so that the server may still send the file by itself.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any

from usage_meter.body import BodyCall, Chunks, SizedChunks
from usage_meter.call import Call, Metered
from usage_meter.caller import TEXT_LENGTH, clean, sent_key
from usage_meter.current import current
from usage_meter.framework import listen
from usage_meter.route import route_of_environ

Environ = dict[str, Any]
Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

FILE_WRAPPER = "wsgi.file_wrapper"


class UsageMeterMiddleware:
    """Records every request of `app` with `meter`. Raises TypeError for an async `identify`: nobody could await it."""

    def __init__(self, app: App, meter: Metered) -> None:
        if iscoroutinefunction(meter.identify):
            raise TypeError("identify is asynchronous: a WSGI app needs one that is not")
        self.app = app
        self.meter = meter
        self.route_by_path = listen(app)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        outer = current.get()  # comes back at the end: the thread serves other calls next
        if outer is not None and self._counts(outer, environ):
            return self.app(environ, start_response)
        call = self._call(environ, start_response)
        if call is None:
            return self.app(environ, start_response)
        current.set(call)
        try:
            if self.meter.identify is not None:
                call.ask(self.meter.identify, environ)
            call.begin()
            return call.response(self.app(environ, call.start_response))
        except BaseException as error:
            call.broke(error)
            raise
        finally:
            current.set(outer)

    def _counts(self, outer: Call, environ: Environ) -> bool:
        """Whether this request has come through a door already, as where an app and one below it both have one."""
        return isinstance(outer, WSGICall) and outer.meter is self.meter and outer.environ is environ

    def _call(self, environ: Environ, start_response: StartResponse) -> "WSGICall | None":
        try:
            return WSGICall(self, environ, start_response)
        except Exception as error:  # guarded: whatever the environ is, it is the app's to serve
            self.meter.recorder.failed("wsgi", error)
            return None


class WSGICall(BodyCall):
    """One request; its `start_response` and `write` stand between the app and the server's."""

    chosen_route: str | None = None
    file: object = None
    sends_file = False  # whether the server gets that file itself, and not something that iterates over it

    def __init__(self, door: UsageMeterMiddleware, environ: Environ, start_response: StartResponse) -> None:
        self.script_name: str = environ.get("SCRIPT_NAME", "")
        path = _decoded(self.script_name + environ.get("PATH_INFO", ""))
        identity = door.meter.callers.by_key(sent_key(environ))
        super().__init__(door.meter, environ["REQUEST_METHOD"], path, identity)
        self.door = door
        self.environ = environ
        self._start_response = start_response
        self.read_headers(environ)
        if environ.get("HTTP_TRANSFER_ENCODING") and not environ.get("CONTENT_LENGTH"):
            environ["wsgi.input"] = CountedInput(self, environ["wsgi.input"])
        self._file_wrapper: Any = environ.get(FILE_WRAPPER)
        if self._file_wrapper is not None:
            environ[FILE_WRAPPER] = self.wrap_file

    def framework_route(self) -> str:
        return self.door.route_by_path(self.event.path) if self.chosen_route is None else self.chosen_route

    def scheme(self) -> str:
        return str(self.environ.get("wsgi.url_scheme", ""))

    def start_response(self, status: str, headers: Headers, exc_info: ExcInfo | None = None) -> Write:
        """The app's `start_response`."""
        try:
            self._answered(status, headers, exc_info)
        except Exception as error:  # guarded: what is not as the specification has it is the server's to judge
            self.meter.recorder.failed("wsgi", error)
        more = (exc_info,) if exc_info is not None else ()
        self._write = self._start_response(status, headers, *more)
        return self.write

    def _answered(self, status: str, headers: Headers, exc_info: ExcInfo | None) -> None:
        self.event.status = int(status[:3])
        self.chosen_route = route_of_environ(self.environ, self.script_name)  # Flask takes it away again, afterwards
        if exc_info is not None:  # the app answers with an error page for this exception
            self.note_exception(exc_info[1])
        self.content_length = None
        for name, value in headers:
            lower = name.lower()
            if lower == "content-length" and value.isdecimal():
                self.content_length = int(value)
            elif lower in ("request-id", "x-request-id"):
                self.event.request_id = clean(value, TEXT_LENGTH)

    def write(self, data: bytes) -> object:
        """What `start_response` gives the app, for what it writes by hand."""
        self.sent(len(data))
        return self._write(data)

    def response(self, body: Iterable[bytes]) -> Iterable[bytes]:
        """What the server gets for the app's iterable."""
        if self._file_wrapper is not None:
            self.environ[FILE_WRAPPER] = self._file_wrapper  # the server compares with its own
        if self.file is not None and body is self.file:
            self.sends_file = True
            return body
        return SizedChunks(self, body) if hasattr(body, "__len__") else Chunks(self, body)

    def wrap_file(self, file: Any, *block_size: int) -> object:
        """The app's `wsgi.file_wrapper`: the server's own, around a file that tells us what is read of it."""
        self.file = self._file_wrapper(MeteredFile(self, file), *block_size)
        return self.file


class MeteredFile:
    """A file inside the server's file wrapper: the server reads it, or takes its descriptor and sends it by itself.

    It has the methods that the file has, and always `close`, by which the server says that it is done.
    """

    def __init__(self, call: WSGICall, file: Any) -> None:
        self._call = call
        self._file = file

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._file, name)
        if name == "read":
            return self._read
        return self._fileno if name == "fileno" else attribute

    def _read(self, *size: int) -> bytes:
        data: bytes = self._file.read(*size)
        if self._call.sends_file:
            if data:
                self._call.sent(len(data))
            else:
                self._call.ended()
        return data

    def _fileno(self) -> int:
        descriptor: int = self._file.fileno()
        if self._call.sends_file and not self._call.exhausted:
            try:
                self._sent_whole(descriptor)
            except Exception as error:  # guarded: a descriptor may be of anything
                self._call.meter.recorder.failed("wsgi", error)
        return descriptor

    def _sent_whole(self, descriptor: int) -> None:
        """From here on the system sends the file, unseen: it is recorded as sent whole, before it is."""
        size = self._call.content_length
        if size is None:
            size = os.fstat(descriptor).st_size - os.lseek(descriptor, 0, os.SEEK_CUR)
        self._call.sent(size)
        self._call.ended()

    def close(self) -> None:
        if self._call.sends_file:
            self._call.closed()
        if hasattr(self._file, "close"):
            self._file.close()


class CountedInput:
    """The input of a request that does not say its length."""

    def __init__(self, call: Call, stream: Any) -> None:
        self._call = call
        self._stream = stream

    def read(self, *size: int) -> bytes:
        return self._counted(self._stream.read(*size))

    def readline(self, *size: int) -> bytes:
        return self._counted(self._stream.readline(*size))

    def readlines(self, *hint: int) -> list[bytes]:
        return [self._counted(line) for line in self._stream.readlines(*hint)]

    def __iter__(self) -> Iterator[bytes]:
        return map(self._counted, self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _counted(self, data: bytes) -> bytes:
        self._call.event.request_bytes += len(data)
        return data


def _decoded(path: str) -> str:
    """A path of the environ, where each character stands for a byte, as text."""
    return path if path.isascii() else path.encode("latin-1", "replace").decode("utf-8", "replace")
