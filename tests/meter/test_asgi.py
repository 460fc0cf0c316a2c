"""The ASGI door with apps of no framework: what is recorded of each way in which a request can go."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.meter.fakes import ListMeter, known, known_later
from usage_meter import Caller, usage
from usage_meter.asgi import UsageMeterMiddleware
from usage_meter.asgi_call import App, Message, Receive, Scope, Send
from usage_meter.current import current

KEY = "sk_0123456789abcdef"
ALICE = Caller(workspace="acme", user="alice", groups=("staff",), api_key=KEY)

START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
END: Message = {"type": "http.response.body", "body": b"hello"}


def body(content: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


def start(status: int, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def request_scope(method: str = "GET", path: str = "/v1/speech", headers: Iterable[tuple[bytes, bytes]] = ()) -> Scope:
    return {"type": "http", "method": method, "path": path, "query_string": b"token=secret", "headers": list(headers)}


class Server:
    """The server's side: hands out `incoming`, then a disconnect, and keeps what the app sends."""

    def __init__(self, *incoming: Message) -> None:
        self.incoming = [*incoming, {"type": "http.disconnect"}]
        self.sent: list[Message] = []
        self.gone = False

    async def receive(self) -> Message:
        return self.incoming.pop(0)

    async def send(self, message: Message) -> None:
        if self.gone:
            raise OSError("the client is gone")
        self.sent.append(message)

    async def serve(self, app: App, scope: Scope | None = None) -> None:
        await app(scope or request_scope(), self.receive, self.send)


def app_of(*messages: Message) -> App:
    """An app that sends these messages whatever it is asked."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


@pytest.fixture
def meter() -> ListMeter:
    return ListMeter()


async def test_a_request_becomes_an_event(meter: ListMeter) -> None:
    server = Server()
    await server.serve(UsageMeterMiddleware(app_of(START, END), meter))

    event = meter.event
    assert (event.method, event.path, event.route, event.status) == ("GET", "/v1/speech", "", 200)
    assert (event.outcome, event.error, event.response_bytes, event.request_bytes) == ("ok", "", 5, 0)
    assert event.ttfb_us is not None
    assert 0 <= event.ttfb_us <= event.duration_us
    assert event.workspace == "default"
    assert event.request_id == ""  # nobody gave it one; its id finds it
    assert server.sent == [START, END]
    assert meter.idle()


async def test_neither_the_query_string_nor_the_key_nor_a_body_is_recorded(meter: ListMeter) -> None:
    headers = [(b"xi-api-key", KEY.encode()), (b"cookie", b"session=secret")]
    app = UsageMeterMiddleware(app_of(START, body(b"secret")), meter)
    await Server({"type": "http.request", "body": b"secret"}).serve(app, request_scope(headers=headers))

    assert "secret" not in repr(meter.event)
    assert KEY not in repr(meter.event)
    assert meter.event.api_key == ListMeter().callers.by_key(KEY).api_key
    assert meter.event.api_key_hint == "cdef"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "ok"), (304, "ok"), (404, "client_error"), (429, "client_error"), (503, "server_error")],
)
async def test_the_outcome_follows_from_the_status(meter: ListMeter, status: int, outcome: str) -> None:
    await Server().serve(UsageMeterMiddleware(app_of(start(status), body(b"")), meter))

    assert (meter.event.status, meter.event.outcome) == (status, outcome)
    assert meter.event.ttfb_us is None


async def test_a_stream_counts_all_its_bytes_to_the_last(meter: ListMeter) -> None:
    events_at_each_chunk = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        for content in (b"", b"one", b"three"):
            await send(body(content, more=True))
            events_at_each_chunk.append(len(meter.events))
        usage.set(credits=3)
        await send(body(b""))

    await Server().serve(UsageMeterMiddleware(app, meter))

    assert events_at_each_chunk == [0, 0, 0]
    assert meter.event.response_bytes == 8
    assert meter.event.ttfb_us is not None
    assert meter.event.ttfb_us < meter.event.duration_us
    assert (meter.event.version, meter.event.credits_micro) == (1, 3_000_000)


async def test_the_event_is_recorded_before_the_last_bytes_leave(meter: ListMeter) -> None:
    recorded: list[int] = []

    async def send(message: Message) -> None:
        recorded.append(len(meter.events))

    await UsageMeterMiddleware(app_of(START, body(b"a", more=True), body(b"b")), meter)(
        request_scope(), Server().receive, send
    )

    assert recorded == [0, 0, 1]


async def test_what_a_background_task_does_is_not_in_the_duration_but_its_credits_are_in_the_event(
    meter: ListMeter,
) -> None:
    at_the_last_byte = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(END)
        at_the_last_byte.append(meter.event.duration_us)
        assert meter.idle()
        usage.set(credits="0.5")

    await Server().serve(UsageMeterMiddleware(app, meter))

    assert (meter.event.version, meter.event.credits_micro) == (2, 500_000)
    assert [meter.event.duration_us] == at_the_last_byte


async def test_what_a_server_puts_off_while_it_sends_the_last_bytes_holds_no_call(meter: ListMeter) -> None:
    seen_by_timers: list[object] = []
    seen_by_the_app: list[object] = []

    async def send(message: Message) -> None:  # as uvicorn does it for the connection's next request
        asyncio.get_running_loop().call_soon(lambda: seen_by_timers.append(current.get()))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await app_of(START, END)(scope, receive, send)
        seen_by_the_app.append(current.get())

    await UsageMeterMiddleware(app, meter)(request_scope(), Server().receive, send)
    await asyncio.sleep(0)

    assert seen_by_timers[-1] is None
    assert seen_by_the_app != [None]


async def test_request_bytes_are_those_that_the_app_read(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await send(START)
        await send(END)

    chunks: list[Message] = [
        {"type": "http.request", "body": b"12", "more_body": True},
        {"type": "http.request", "body": b"345"},
    ]
    await Server(*chunks).serve(UsageMeterMiddleware(app, meter), request_scope("POST"))

    assert meter.event.request_bytes == 5


async def test_the_answer_to_head_has_no_body_bytes(meter: ListMeter) -> None:
    await Server().serve(UsageMeterMiddleware(app_of(START, END), meter), request_scope("HEAD"))

    assert (meter.event.method, meter.event.response_bytes, meter.event.ttfb_us) == ("HEAD", 0, None)


async def test_a_made_up_method_does_not_become_a_value_of_its_own(meter: ListMeter) -> None:
    await Server().serve(UsageMeterMiddleware(app_of(START, END), meter), request_scope("FROBNICATE"))

    assert meter.event.method == "__other__"


async def test_an_overlong_path_is_cut_and_mended(meter: ListMeter) -> None:
    path = "/\udc80" + "x" * 5000
    await Server().serve(UsageMeterMiddleware(app_of(START, END), meter), request_scope(path=path))

    assert meter.event.path == "/?" + "x" * 2046


class BrokenError(Exception):
    pass


async def test_an_exception_passes_untouched_and_is_recorded_with_its_class(meter: ListMeter) -> None:
    failure = BrokenError("inside")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise failure

    with pytest.raises(BrokenError) as raised:
        await Server().serve(UsageMeterMiddleware(app, meter))

    assert raised.value is failure
    assert (meter.event.status, meter.event.outcome, meter.event.error) == (500, "exception", "BrokenError")
    assert meter.idle()


async def test_an_exception_in_the_middle_of_a_stream_keeps_the_status_that_was_sent(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(b"half", more=True))
        raise BrokenError

    with pytest.raises(BrokenError):
        await Server().serve(UsageMeterMiddleware(app, meter))

    assert (meter.event.status, meter.event.outcome, meter.event.error) == (200, "exception", "BrokenError")
    assert meter.event.response_bytes == 4


async def test_an_exception_that_the_outermost_layer_has_answered_for_corrects_the_event(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(500))
        await send(body(b"Internal Server Error"))
        raise BrokenError

    with pytest.raises(BrokenError):
        await Server().serve(UsageMeterMiddleware(app, meter))

    assert [(event.version, event.outcome, event.error) for event in meter.events] == [
        (1, "server_error", ""),
        (2, "exception", "BrokenError"),
    ]


async def test_a_background_task_that_fails_does_not_spoil_the_answer_that_was_given(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(END)
        raise BrokenError

    with pytest.raises(BrokenError):
        await Server().serve(UsageMeterMiddleware(app, meter))

    assert (meter.event.version, meter.event.outcome) == (1, "ok")


async def test_a_client_that_leaves_during_the_answer_is_a_disconnect(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(body(b"half", more=True))
        assert (await receive())["type"] == "http.disconnect"

    await Server().serve(UsageMeterMiddleware(app, meter))

    assert (meter.event.status, meter.event.outcome, meter.event.response_bytes) == (200, "disconnected", 4)


async def test_an_answer_completed_after_the_client_left_is_a_disconnect(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(START)
        await send(END)

    await Server().serve(UsageMeterMiddleware(app, meter))

    assert (meter.event.version, meter.event.outcome) == (1, "disconnected")


async def test_a_client_that_leaves_after_the_answer_changes_nothing(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(END)
        await receive()

    await Server().serve(UsageMeterMiddleware(app, meter))

    assert (meter.event.version, meter.event.outcome) == (1, "ok")


@pytest.mark.parametrize("more", [True, False])
async def test_a_send_that_fails_is_a_disconnect(meter: ListMeter, more: bool) -> None:
    server = Server()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        server.gone = True
        await send(body(b"half", more))

    with pytest.raises(OSError, match="gone"):
        await server.serve(UsageMeterMiddleware(app, meter))

    assert (meter.event.outcome, meter.event.status) == ("disconnected", 200)
    assert meter.idle()


async def test_a_cancelled_call_is_a_disconnect_and_the_cancellation_passes(meter: ListMeter) -> None:
    entered = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(Server().serve(UsageMeterMiddleware(app, meter)))
    await entered.wait()
    assert meter.recorder.in_flight["default", ""] == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (meter.event.outcome, meter.event.status, meter.event.error) == ("disconnected", 499, "")
    assert meter.idle()


async def test_an_app_that_answers_nothing_is_a_server_error(meter: ListMeter) -> None:
    await Server().serve(UsageMeterMiddleware(app_of(), meter))

    assert (meter.event.status, meter.event.outcome, meter.event.error) == (500, "server_error", "IncompleteResponse")


@pytest.mark.parametrize(
    ("sent", "answered", "expected"),
    [
        ([(b"x-request-id", b"from-client")], [(b"request-id", b"from-app")], "from-app"),
        ([], [(b"X-Request-Id", b"from-app")], "from-app"),
        ([(b"x-request-id", b"from-client")], [], "from-client"),
    ],
)
async def test_the_request_id_is_the_apps_own_before_the_clients(
    meter: ListMeter, sent: list[tuple[bytes, bytes]], answered: list[tuple[bytes, bytes]], expected: str
) -> None:
    app = UsageMeterMiddleware(app_of(start(200, *answered), END), meter)
    await Server().serve(app, request_scope(headers=sent))

    assert meter.event.request_id == expected


async def test_response_headers_that_can_be_read_only_once_are_left_for_the_server(meter: ListMeter) -> None:
    server = Server()
    once = iter([(b"request-id", b"from-app")])
    app = app_of({"type": "http.response.start", "status": 200, "headers": once}, END)
    await server.serve(UsageMeterMiddleware(app, meter))

    assert list(server.sent[0]["headers"]) == [(b"request-id", b"from-app")]
    assert meter.failures() == []


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "0af7651916cd43dd8448eb211c80319c"),
        (b"00-0af7651916cd43dd8448eb211c80319c", ""),
        (b"nonsense", ""),
        (b"\xff" * 60, ""),
    ],
)
async def test_the_trace_id_comes_from_traceparent(meter: ListMeter, traceparent: bytes, trace_id: str) -> None:
    app = UsageMeterMiddleware(app_of(START, END), meter)
    await Server().serve(app, request_scope(headers=[(b"traceparent", traceparent)]))

    assert meter.event.trace_id == trace_id


@pytest.mark.parametrize("identify", [known(ALICE), known_later(ALICE)])
async def test_identify_names_the_caller_before_the_app_runs(identify: Any) -> None:
    meter = ListMeter(identify)
    key = ListMeter().callers.by_key(KEY).api_key

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert meter.recorder.in_flight["acme", key] == 1
        await app_of(START, END)(scope, receive, send)

    await Server().serve(UsageMeterMiddleware(app, meter))

    event = meter.event
    assert (event.workspace, event.user, event.groups, event.api_key) == ("acme", "alice", ("staff",), key)
    assert meter.idle()


def failing(scope: Any) -> Caller:
    raise BrokenError


async def failing_later(scope: Any) -> Caller:
    raise BrokenError


def no_caller(scope: Any) -> Any:
    return {"workspace": "acme"}


@pytest.mark.parametrize(
    ("identify", "failures"),
    [
        (known(None), []),
        (known_later(None), []),
        (failing, ["identify"]),
        (failing_later, ["identify"]),
        (no_caller, ["identify"]),
    ],
)
async def test_when_identify_does_not_know_or_fails_the_key_alone_says_who_called(
    identify: Any, failures: list[str]
) -> None:
    meter = ListMeter(identify)
    app = UsageMeterMiddleware(app_of(START, END), meter)
    await Server().serve(app, request_scope(headers=[(b"x-api-key", KEY.encode())]))

    assert (meter.event.workspace, meter.event.api_key_hint) == ("default", "cdef")
    assert meter.failures() == failures
    assert meter.idle()


async def test_an_app_that_calls_another_metered_app_gets_its_own_call_back(meter: ListMeter) -> None:
    async def inner_app(scope: Scope, receive: Receive, send: Send) -> None:
        usage.set(voice="inner")
        await app_of(START, END)(scope, receive, send)

    inner = UsageMeterMiddleware(inner_app, meter)

    async def outer_app(scope: Scope, receive: Receive, send: Send) -> None:
        await Server().serve(inner, request_scope(path="/inner"))
        usage.set(voice="outer")
        await app_of(START, END)(scope, receive, send)

    await Server().serve(UsageMeterMiddleware(outer_app, meter), request_scope(path="/outer"))

    assert {(event.path, event.voice) for event in meter.events} == {("/inner", "inner"), ("/outer", "outer")}


async def test_an_app_that_makes_several_calls_of_one_has_each_counted(meter: ListMeter) -> None:
    async def batch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/batch":
            for path in ("/one", "/two"):
                await Server().serve(door, {**scope, "path": path})
        await app_of(START, END)(scope, receive, send)

    door = UsageMeterMiddleware(batch, meter)
    await Server().serve(door, request_scope(path="/batch", headers=[(b"host", b"app")]))

    assert [event.path for event in meter.events] == ["/one", "/two", "/batch"]
    assert meter.idle()


async def test_a_file_sent_by_its_path_ends_the_call_with_the_files_size(meter: ListMeter, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(b"x" * 100)
    server = Server()
    pathsend: Message = {"type": "http.response.pathsend", "path": str(file)}
    await server.serve(UsageMeterMiddleware(app_of(start(200), pathsend), meter))

    assert (meter.event.response_bytes, meter.event.outcome) == (100, "ok")
    assert server.sent[1] is pathsend


async def test_zero_copy_sends_count_their_bytes(meter: ListMeter) -> None:
    messages: list[Message] = [
        {"type": "http.response.zerocopysend", "file": 3, "count": 40, "more_body": True},
        {"type": "http.response.zerocopysend", "file": 3, "count": 2},
    ]
    await Server().serve(UsageMeterMiddleware(app_of(start(200), *messages), meter))

    assert (meter.event.response_bytes, meter.event.outcome) == (42, "ok")


async def test_messages_of_extensions_pass(meter: ListMeter) -> None:
    server = Server()
    messages: list[Message] = [
        {"type": "http.response.early_hint", "links": []},
        {"type": "http.response.start", "status": 200, "headers": [], "trailers": True},
        END,
        {"type": "http.response.trailers", "headers": []},
    ]
    await server.serve(UsageMeterMiddleware(app_of(*messages), meter))

    assert server.sent == messages
    assert (meter.event.version, meter.event.outcome) == (1, "ok")


async def test_everything_else_passes_through(meter: ListMeter) -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    scope: Scope = {"type": "of tomorrow"}
    server = Server()
    await UsageMeterMiddleware(app, meter)(scope, server.receive, server.send)

    assert seen == [(scope, server.receive, server.send)]
    assert meter.events == []


@pytest.mark.parametrize(
    "strange",
    [
        {"type": "http", "method": "GET", "path": "/", "headers": None},
        {"type": "http", "method": "GET", "path": None, "headers": []},
        {"type": "http"},
    ],
)
async def test_a_scope_outside_the_specification_is_served_all_the_same(meter: ListMeter, strange: Scope) -> None:
    server = Server()
    await server.serve(UsageMeterMiddleware(app_of(START, END), meter), strange)

    assert server.sent == [START, END]
    assert meter.failures() == ["asgi"]


async def test_messages_outside_the_specification_pass(meter: ListMeter) -> None:
    server = Server({"no": "type"})
    messages: list[Message] = [{"type": "http.response.start"}, {"type": "http.response.body", "body": None}]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert await receive() == {"no": "type"}
        await app_of(*messages)(scope, receive, send)

    await server.serve(UsageMeterMiddleware(app, meter))

    assert server.sent == messages
    assert meter.failures() == ["asgi", "asgi", "asgi"]


async def test_a_recorder_that_fails_does_not_reach_the_app() -> None:
    meter = ListMeter()

    def broken(*arguments: Any) -> bool:
        raise BrokenError

    meter.recorder.record = broken  # type: ignore[method-assign, assignment]
    server = Server()
    await server.serve(UsageMeterMiddleware(app_of(START, END), meter))

    assert server.sent == [START, END]
    assert meter.failures() == ["event"]
