"""The WSGI door with apps of no framework, driven as a server does it."""

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from tests.meter.fakes import ListMeter, known, known_later
from usage_meter import Caller, usage
from usage_meter.wsgi import App, Environ, StartResponse, UsageMeterMiddleware

KEY = "sk_0123456789abcdef"


class BrokenError(Exception):
    pass


def environ_of(method: str = "GET", path: str = "/v1/speech", **more: Any) -> Environ:
    environ: Environ = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", **more}
    setup_testing_defaults(environ)
    return environ


class Handler(SimpleHandler):
    """The standard library's own server side; it sees whether and how it was asked to send a file."""

    http_version = "1.1"
    wsgi_run_once = False
    sent_file: object = None

    def sendfile(self) -> bool:
        self.sent_file = getattr(self, "result")  # noqa: B009  (the stubs do not know it)
        return False

    def log_exception(self, exc_info: Any) -> None:
        self.exception = exc_info[1]


def serve(app: Any, environ: Environ | None = None) -> tuple[Handler, bytes]:
    """The handler after the request, and what went over the wire."""
    wire = io.BytesIO()
    handler = Handler(io.BytesIO(b"input"), wire, io.StringIO(), environ or environ_of())
    handler.run(app)
    return handler, wire.getvalue()


def app_of(*chunks: bytes, status: str = "200 OK", headers: Iterable[tuple[str, str]] = ()) -> App:
    """An app that answers with these chunks, as a list."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, [("Content-Type", "text/plain"), *headers])
        return list(chunks)

    return app


@pytest.fixture
def meter() -> ListMeter:
    return ListMeter()


def test_a_request_becomes_an_event(meter: ListMeter) -> None:
    _, wire = serve(UsageMeterMiddleware(app_of(b"hello"), meter), environ_of("POST", CONTENT_LENGTH="5"))

    event = meter.event
    assert (event.method, event.path, event.route, event.status) == ("POST", "/v1/speech", "", 200)
    assert (event.outcome, event.request_bytes, event.response_bytes) == ("ok", 5, 5)
    assert event.ttfb_us is not None
    assert 0 <= event.ttfb_us <= event.duration_us
    assert event.version == 1
    assert b"Content-Length: 5" in wire, "the server still sees that there is one chunk"
    assert wire.endswith(b"hello")
    assert meter.idle()


def test_both_sides_follow_the_specification(meter: ListMeter) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        environ["wsgi.input"].read(3)
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"by hand")
        yield b"one"
        yield b"two"

    checked = validator(UsageMeterMiddleware(validator(app), meter))
    for environ in (environ_of("POST", CONTENT_LENGTH="5"), environ_of(), environ_of(HTTP_TRANSFER_ENCODING="chunked")):
        handler, wire = serve(checked, environ)
        assert wire.endswith(b"by handonetwo")
        assert not hasattr(handler, "exception")

    assert [event.response_bytes for event in meter.events] == [13, 13, 13]
    assert [event.request_bytes for event in meter.events] == [5, 0, 3]
    assert [event.outcome for event in meter.events] == ["ok", "ok", "ok"]
    assert meter.failures() == []


def test_a_stream_passes_chunk_by_chunk_as_the_app_makes_it(meter: ListMeter) -> None:
    made: list[int] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        for number in range(3):
            made.append(number)
            usage.set(credits=number)
            yield b"chunk"

    body = iter(UsageMeterMiddleware(app, meter)(environ_of(), lambda status, headers: print))
    assert made == []
    for number in range(3):
        assert next(body) == b"chunk"
        assert made == list(range(number + 1))
        assert meter.events == []
    assert list(body) == []

    assert (meter.event.credits_micro, meter.event.response_bytes) == (2_000_000, 15)
    assert meter.event.ttfb_us is not None
    assert meter.event.ttfb_us < meter.event.duration_us


@pytest.mark.parametrize("headers", [[("Content-Length", "6")], []])
def test_the_event_is_recorded_before_the_response_can_be_complete(
    meter: ListMeter, headers: list[tuple[str, str]]
) -> None:
    """With a content length before its last chunk, else before the server learns that there is no more."""

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", headers)
        yield b"one"
        yield b"two"

    body = iter(UsageMeterMiddleware(app, meter)(environ_of(), lambda status, headers: print))
    recorded = []
    while next(body, None):
        recorded.append(len(meter.events))

    assert recorded == ([0, 1] if headers else [0, 0])
    assert len(meter.events) == 1


def test_what_is_set_when_the_response_is_closed_corrects_the_event(meter: ListMeter) -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"hello"])

        def close(self) -> None:
            usage.set(credits=1)

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body()

    serve(UsageMeterMiddleware(app, meter))

    assert [(event.version, event.credits_micro) for event in meter.events] == [(1, 0), (2, 1_000_000)]
    usage.set(credits=2)
    assert len(meter.events) == 2, "after the request, its thread belongs to nobody"


@pytest.mark.parametrize("headers", [[("Content-Length", "6")], []])
@pytest.mark.parametrize("read", [0, 1, 2])
def test_a_body_that_the_server_closes_before_its_end_is_a_disconnect(
    meter: ListMeter, headers: list[tuple[str, str]], read: int
) -> None:
    closed = []

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", headers)
        try:
            yield b"one"
            yield b"two"
        finally:
            closed.append(True)

    body: Any = UsageMeterMiddleware(app, meter)(environ_of(), lambda status, headers: print)
    chunks = iter(body)
    for _ in range(read):
        next(chunks)
    body.close()

    assert (meter.event.outcome, meter.event.response_bytes) == ("disconnected", 3 * read)
    assert closed == ([True] if read else [])
    assert meter.idle()


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
)
def test_a_response_without_a_body_may_be_closed_unread(meter: ListMeter, method: str, status: str) -> None:
    app = UsageMeterMiddleware(app_of(b"", status=status), meter)
    body: Any = app(environ_of(method), lambda status, headers: print)
    body.close()

    assert (meter.event.outcome, meter.event.response_bytes) == ("ok", 0)


def test_an_exception_before_the_response_passes_untouched(meter: ListMeter) -> None:
    failure = BrokenError()

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        raise failure

    with pytest.raises(BrokenError) as raised:
        UsageMeterMiddleware(app, meter)(environ_of(), lambda status, headers: print)

    assert raised.value is failure
    assert (meter.event.status, meter.event.outcome, meter.event.error) == (500, "exception", "BrokenError")
    assert meter.idle()


def test_an_exception_in_the_midst_of_a_stream_keeps_the_status(meter: ListMeter) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise BrokenError

    handler, _ = serve(UsageMeterMiddleware(app, meter))

    assert isinstance(handler.exception, BrokenError)
    assert (meter.event.status, meter.event.outcome, meter.event.error) == (200, "exception", "BrokenError")


def test_an_error_page_is_recorded_with_the_exception_behind_it(meter: ListMeter) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            raise BrokenError
        except BrokenError:
            start_response("500 Internal Server Error", [], sys.exc_info())
        return [b"sorry"]

    _, wire = serve(UsageMeterMiddleware(app, meter))

    assert b"500 Internal Server Error" in wire
    assert (meter.event.status, meter.event.outcome, meter.event.error) == (500, "exception", "BrokenError")


@pytest.mark.parametrize(("status", "outcome"), [("404 Not Found", "client_error"), ("503 Busy", "server_error")])
def test_the_outcome_follows_from_the_status(meter: ListMeter, status: str, outcome: str) -> None:
    serve(UsageMeterMiddleware(app_of(b"", status=status), meter))

    assert meter.event.outcome == outcome


def test_paths_are_text_though_the_environ_has_bytes(meter: ListMeter) -> None:
    path = "/ü/€".encode().decode("latin-1")
    serve(UsageMeterMiddleware(app_of(), meter), environ_of(path=path, SCRIPT_NAME="/api"))

    assert meter.event.path == "/api/ü/€"


def test_ids_come_from_the_response_or_the_request(meter: ListMeter) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    environ = environ_of(HTTP_X_REQUEST_ID="from-client", HTTP_TRACEPARENT=trace)
    serve(UsageMeterMiddleware(app_of(), meter), dict(environ))
    serve(UsageMeterMiddleware(app_of(headers=[("Request-Id", "from-app")]), meter), dict(environ))

    assert [event.request_id for event in meter.events] == ["from-client", "from-app"]
    assert {event.trace_id for event in meter.events} == {"0af7651916cd43dd8448eb211c80319c"}


def test_the_key_is_hashed_and_other_schemes_are_not_read(meter: ListMeter) -> None:
    app = UsageMeterMiddleware(app_of(), meter)
    serve(app, environ_of(HTTP_AUTHORIZATION="Basic dXNlcjpwYXNz"))
    serve(app, environ_of(HTTP_AUTHORIZATION=f"Bearer {KEY}"))

    basic, bearer = meter.events
    assert (basic.api_key, basic.api_key_hint) == ("", "")
    assert bearer.api_key == ListMeter().callers.by_key(KEY).api_key


def test_identify_gets_the_environ() -> None:
    asked = []

    def identify(environ: Environ) -> Caller:
        asked.append(environ["PATH_INFO"])
        return Caller("acme", "alice")

    meter = ListMeter(identify)
    serve(UsageMeterMiddleware(app_of(), meter))

    assert asked == ["/v1/speech"]
    assert (meter.event.workspace, meter.event.user) == ("acme", "alice")


@pytest.mark.parametrize("identify", [known("acme"), lambda environ: 1 / 0])  # type: ignore[arg-type]
def test_an_identify_that_fails_leaves_the_caller_to_the_key(identify: Callable[[Any], Any]) -> None:
    meter = ListMeter(identify)
    serve(UsageMeterMiddleware(app_of(), meter), environ_of(HTTP_XI_API_KEY=KEY))

    assert meter.event.api_key_hint == "cdef"
    assert meter.failures() == ["identify"]


def test_an_asynchronous_identify_is_refused_at_the_start() -> None:
    with pytest.raises(TypeError, match="asynchronous"):
        UsageMeterMiddleware(app_of(), ListMeter(known_later(Caller("acme"))))


def file_app(path: Path, closed: list[bool]) -> App:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        file = path.open("rb")
        close = file.close

        class Tracked:
            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def close(self) -> None:
                closed.append(True)
                close()

        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](Tracked(), 4)
        return wrapped

    return app


def test_the_servers_file_wrapper_stays_what_it_is(meter: ListMeter, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(b"0123456789")
    closed: list[bool] = []
    handler, wire = serve(UsageMeterMiddleware(file_app(file, closed), meter))

    assert isinstance(handler.sent_file, FileWrapper), "the server was offered the file itself"
    assert wire.endswith(b"0123456789")
    assert (meter.event.response_bytes, meter.event.outcome, meter.event.version) == (10, "ok", 1)
    assert closed == [True]
    assert meter.idle()


def test_a_file_whose_descriptor_the_server_takes_counts_as_sent_whole(meter: ListMeter, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(b"0123456789")
    environ = environ_of()
    environ["wsgi.file_wrapper"] = FileWrapper
    body: Any = UsageMeterMiddleware(file_app(file, []), meter)(environ, lambda status, headers: print)
    assert environ["wsgi.file_wrapper"] is FileWrapper
    assert isinstance(body, FileWrapper)
    body.filelike.fileno()
    body.close()

    assert (meter.event.response_bytes, meter.event.outcome, meter.event.version) == (10, "ok", 1)


def test_a_file_that_is_read_half_is_a_disconnect(meter: ListMeter, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(b"0123456789")
    environ = environ_of()
    environ["wsgi.file_wrapper"] = FileWrapper
    body: Any = UsageMeterMiddleware(file_app(file, []), meter)(environ, lambda status, headers: print)
    next(body)
    body.close()

    assert (meter.event.response_bytes, meter.event.outcome) == (4, "disconnected")


def test_a_file_wrapper_inside_another_iterable_is_counted_once(meter: ListMeter, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(b"0123456789")

    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        wrapped: Any = file_app(file, [])(environ, start_response)
        yield from wrapped
        wrapped.close()

    environ = environ_of()
    environ["wsgi.file_wrapper"] = FileWrapper
    body = UsageMeterMiddleware(app, meter)(environ, lambda status, headers: print)

    assert b"".join(body) == b"0123456789"
    assert (meter.event.response_bytes, meter.event.outcome) == (10, "ok")


@pytest.mark.parametrize("environ", [{}, {"REQUEST_METHOD": ["GET"]}, {"REQUEST_METHOD": "GET", "PATH_INFO": 7}])
def test_an_environ_outside_the_specification_is_served_all_the_same(meter: ListMeter, environ: Environ) -> None:
    body = UsageMeterMiddleware(app_of(b"hello"), meter)(environ, lambda status, headers: print)

    assert list(body) == [b"hello"]
    assert meter.failures() == ["wsgi"]


def test_what_the_app_says_wrongly_reaches_the_server(meter: ListMeter) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[Any]:
        start_response("splendid", [("Content-Length", 7)])
        return [None, "text"]

    said: list[Any] = []
    body = UsageMeterMiddleware(app, meter)(environ_of(), lambda *arguments: said.append(arguments))  # type: ignore[arg-type]

    chunks: list[Any] = list(body)
    assert chunks == [None, "text"]
    assert said == [("splendid", [("Content-Length", 7)])]
    assert set(meter.failures()) == {"wsgi", "body"}


def test_a_recorder_that_fails_does_not_reach_the_app() -> None:
    meter = ListMeter()

    def broken(*arguments: Any) -> bool:
        raise BrokenError

    meter.recorder.record = broken  # type: ignore[method-assign, assignment]
    _, wire = serve(UsageMeterMiddleware(app_of(b"hello"), meter))

    assert wire.endswith(b"hello")
    assert meter.failures() == ["event"]
