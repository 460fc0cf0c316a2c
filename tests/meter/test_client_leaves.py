"""A client that leaves while the app works, of which nobody tells the app: it is seen before the last bytes go."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import hypercorn.asyncio
import pytest
import uvicorn

from tests.conftest import free_port
from tests.meter.fakes import ListMeter
from usage_meter.asgi import UsageMeterMiddleware
from usage_meter.asgi_call import App, Message, Receive, Scope, Send
from usage_meter.http_call import PATIENCE_US

LONG = 2 * PATIENCE_US / 1e6  # seconds after which it is worth a look
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
END: Message = {"type": "http.response.body", "body": b"ok"}
NO_BODY: Message = {"type": "http.request", "body": b"", "more_body": False}
GONE: Message = {"type": "http.disconnect"}


class Server:
    """The server's side: what it has to say comes one by one, and then nothing for a long time."""

    def __init__(self, *says: Message) -> None:
        self.says = [*says]
        self.waits = 0  # how many wait for what comes next

    async def receive(self) -> Message:
        if self.says:
            return self.says.pop(0)
        self.waits += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.waits -= 1
        raise AssertionError

    async def send(self, message: Message) -> None:
        pass

    async def serve(self, app: App, method: str = "GET") -> None:
        await app({"type": "http", "method": method, "path": "/", "headers": []}, self.receive, self.send)


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes its time, and never asks whether anybody still waits."""
    await asyncio.sleep(LONG)
    await send(START)
    await send(END)


@pytest.fixture
def meter() -> ListMeter:
    return ListMeter()


@pytest.mark.parametrize(
    ("says", "outcome"), [([GONE], "disconnected"), ([NO_BODY, GONE], "disconnected"), ([NO_BODY], "ok"), ([], "ok")]
)
async def test_a_client_that_has_left_is_seen_though_the_app_does_not_ask(
    meter: ListMeter, says: list[Message], outcome: str
) -> None:
    server = Server(*says)
    await server.serve(UsageMeterMiddleware(slow, meter))
    await asyncio.sleep(0)

    assert (meter.event.version, meter.event.status, meter.event.outcome) == (1, 200, outcome)
    assert server.waits == 0  # nothing of ours is left behind
    assert meter.failures() == []


async def test_an_app_reads_after_its_answer_what_we_have_read_ahead(meter: ListMeter) -> None:
    heard: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await slow(scope, receive, send)
        heard.extend([(await receive())["type"], (await receive())["type"]])

    await Server(NO_BODY, GONE).serve(UsageMeterMiddleware(app, meter))

    assert heard == ["http.request", "http.disconnect"]


async def test_an_app_that_waits_for_the_client_to_leave_hears_it_through_us(meter: ListMeter) -> None:
    server, heard = Server(NO_BODY), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await slow(scope, receive, send)
        assert server.waits == 1  # what we have begun to wait for
        await receive()
        later = asyncio.ensure_future(receive())
        await asyncio.sleep(0)
        assert server.waits == 1
        later.cancel()
        heard.append("all")

    await server.serve(UsageMeterMiddleware(app, meter))

    assert heard == ["all"]
    assert meter.event.outcome == "ok"


async def test_a_body_that_the_app_has_not_read_is_left_where_it_is(meter: ListMeter) -> None:
    server = Server({"type": "http.request", "body": b"long", "more_body": True})
    await server.serve(UsageMeterMiddleware(slow, meter), "POST")

    assert len(server.says) == 1


async def test_an_app_that_listens_by_itself_is_not_overheard(meter: ListMeter) -> None:
    server, waiting = Server(), []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        listener = asyncio.ensure_future(receive())
        await slow(scope, receive, send)
        waiting.append(server.waits)
        listener.cancel()

    await server.serve(UsageMeterMiddleware(app, meter))

    assert waiting == [1]


def test_under_another_kind_of_event_loop_nothing_is_read_ahead(
    meter: ListMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_meter.http_call.PATIENCE_US", -1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(END)

    with pytest.raises(StopIteration):  # a coroutine that never had to wait has come to its end
        Server().serve(UsageMeterMiddleware(app, meter)).send(None)

    assert meter.event.outcome == "ok"
    assert meter.failures() == []


Serving = Callable[[App, int], AbstractAsyncContextManager[None]]


def by_uvicorn(http: Any) -> Serving:
    @asynccontextmanager
    async def serve(app: Any, port: int) -> AsyncIterator[None]:
        server = uvicorn.Server(uvicorn.Config(app, port=port, http=http, lifespan="off", log_level="critical"))
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        yield
        server.should_exit = True
        await serving

    return serve


@asynccontextmanager
async def by_hypercorn(app: Any, port: int) -> AsyncIterator[None]:
    config, over = hypercorn.Config(), asyncio.Event()
    config.bind = [f"127.0.0.1:{port}"]
    serving = asyncio.create_task(hypercorn.asyncio.serve(app, config, shutdown_trigger=over.wait))
    yield
    over.set()
    await serving


async def until(probe: Callable[[], bool]) -> None:
    for _ in range(1000):
        if probe():
            return
        await asyncio.sleep(0.01)
    pytest.fail("waited in vain")


async def connect(port: int) -> asyncio.StreamWriter:
    for _ in range(1000):
        with suppress(ConnectionRefusedError):
            return (await asyncio.open_connection("127.0.0.1", port))[1]
        await asyncio.sleep(0.01)
    raise AssertionError("nobody listens")


@pytest.mark.parametrize(
    "serving",
    [by_uvicorn("h11"), by_uvicorn("httptools"), by_hypercorn],
    ids=["uvicorn, h11", "uvicorn, httptools", "hypercorn"],
)
async def test_real_servers(meter: ListMeter, serving: Serving) -> None:
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        begun.set()
        await slow(scope, receive, send)

    port = free_port()
    async with serving(UsageMeterMiddleware(app, meter), port):
        client = await connect(port)
        client.write(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
        await begun.wait()
        client.close()
        await until(lambda: bool(meter.events))

    assert meter.event.outcome == "disconnected"
