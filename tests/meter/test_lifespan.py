"""The server's lifespan: the recorder opens with the process, and nothing is left behind when it ends."""

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.conftest import RedisServer, free_port, wait_until
from tests.faults.conftest import recorded_ids
from tests.meter.fakes import ListMeter
from usage_meter import Meter
from usage_meter.asgi import UsageMeterMiddleware
from usage_meter.asgi_call import App, Message, Receive, Scope, Send

STARTUP: Message = {"type": "lifespan.startup"}
SHUTDOWN: Message = {"type": "lifespan.shutdown"}


class Server:
    """A server's side of the lifespan. Notes what it hears, and what the recorder had done by then."""

    def __init__(self, *messages: Message) -> None:
        self.meter = ListMeter()
        self._messages = list(messages) or [STARTUP, SHUTDOWN]
        self.heard: list[tuple[str, ...]] = []

    async def receive(self) -> Message:
        return self._messages.pop(0)

    async def send(self, message: Message) -> None:
        self.heard.append((message["type"], *self.meter.recorder.life))

    async def run(self, app: App) -> None:
        await UsageMeterMiddleware(app, self.meter)({"type": "lifespan", "state": {}}, self.receive, self.send)


OPENED_AND_CLOSED = [
    ("lifespan.startup.complete", "open"),
    ("lifespan.shutdown.complete", "open", "close"),
]


async def knows_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    assert scope["type"] == "http"


async def returns_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def knows_it(scope: Scope, receive: Receive, send: Send) -> None:
    for _ in range(2):
        message = await receive()
        await send({"type": message["type"] + ".complete"})


@asynccontextmanager
async def around(app: Any) -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("app", [knows_it, knows_nothing, returns_at_once, Starlette(lifespan=around)])
async def test_the_recorder_opens_at_the_start_and_is_drained_before_the_server_hears_of_the_end(app: Any) -> None:
    server = Server()

    await server.run(app)

    assert server.heard == OPENED_AND_CLOSED


async def test_an_app_that_leaves_without_a_word_is_drained_too() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()

    server = Server()
    await server.run(app)

    assert server.meter.recorder.life == ["open", "close"]


async def test_a_start_that_fails_is_the_app_s_own_affair() -> None:
    @asynccontextmanager
    async def broken(app: Any) -> AsyncIterator[None]:
        raise LookupError("no model")
        yield

    server = Server()
    with pytest.raises(LookupError, match="no model"):
        await server.run(Starlette(lifespan=broken))

    assert [message for message, *_ in server.heard] == ["lifespan.startup.failed"]


# Run behind uvicorn by the test below.


def answer_hello(request: Any) -> PlainTextResponse:
    return PlainTextResponse("hello")


def app_with_lifespan() -> Any:
    app = Starlette(routes=[Route("/{anything:path}", answer_hello)], lifespan=around)
    app.add_middleware(UsageMeterMiddleware, meter=Meter())
    return app


def app_without_lifespan() -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await PlainTextResponse("hello")(scope, receive, send)

    return UsageMeterMiddleware(app, Meter())


@pytest.mark.parametrize("factory", [app_with_lifespan.__name__, app_without_lifespan.__name__])
def test_uvicorn_ended_by_its_signal_leaves_nothing_behind(
    factory: str, redis_server: RedisServer, tmp_path: Path
) -> None:
    port, journal = free_port(), tmp_path / "journal"  # no other process sends from it
    environ = os.environ | {"USAGE_METER_REDIS_URL": redis_server.url, "USAGE_METER_JOURNAL_DIR": str(journal)}
    command = [sys.executable, "-m", "uvicorn", "--factory", f"tests.meter.test_lifespan:{factory}"]
    process = subprocess.Popen([*command, "--port", str(port), "--log-level", "error"], env=environ)
    try:
        wait_until(lambda: calls(port, "first"), "uvicorn answers")
        assert all(calls(port, f"call-{number}") for number in range(50))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()

    assert recorded_ids(redis_server) == {"first", *(f"call-{number}" for number in range(50))}


def calls(port: int, request_id: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v1/x", headers={"X-Request-ID": request_id})
        return connection.getresponse().read() == b"hello"
    except OSError:
        return False
    finally:
        connection.close()
