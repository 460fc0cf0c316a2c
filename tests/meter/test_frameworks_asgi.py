"""Litestar, Quart and Falcon behind the ASGI door. Starlette, FastAPI and Django have files of their own."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import falcon
import falcon.asgi
import httpx
import litestar
import pytest
import quart
from litestar.middleware import DefineMiddleware
from litestar.params import FromPath
from litestar.response import Stream

from tests.meter.fakes import ListMeter
from usage_meter import usage
from usage_meter.asgi import UsageMeterMiddleware


@pytest.fixture
def meter() -> ListMeter:
    return ListMeter()


async def chunks() -> AsyncIterator[bytes]:
    yield b"one"
    usage.set(credits=3)
    yield b"two"


@litestar.get("/voices/{voice_id:int}")
async def litestar_voice(voice_id: FromPath[int]) -> str:
    usage.set(voice=str(voice_id))
    return "hello"


@litestar.get("/sync/{voice_id:str}", sync_to_thread=True)
def litestar_thread(voice_id: FromPath[str]) -> str:
    usage.set(voice=voice_id)
    return "hello"


@litestar.get("/stream")
async def litestar_stream() -> Stream:
    return Stream(chunks())


@litestar.get("/broken")
async def litestar_broken() -> str:
    raise ZeroDivisionError


@litestar.get("/refused")
async def litestar_refused() -> str:
    raise litestar.exceptions.NotAuthorizedException


def litestar_app(**options: Any) -> litestar.Litestar:
    handlers = [litestar_voice, litestar_thread, litestar_stream, litestar_broken, litestar_refused]
    return litestar.Litestar([litestar.Router("/v1", route_handlers=handlers)], **options)


def quart_app() -> quart.Quart:
    app = quart.Quart("voices")

    @app.get("/v1/voices/<int:voice_id>")
    async def voice(voice_id: int) -> str:
        usage.set(voice=str(voice_id))
        return "hello"

    @app.get("/v1/sync/<voice_id>")
    def thread(voice_id: str) -> str:
        usage.set(voice=voice_id)
        return "hello"

    @app.get("/v1/stream")
    async def stream() -> quart.Response:
        return quart.Response(chunks())

    @app.get("/v1/broken")
    async def broken() -> str:
        raise ZeroDivisionError

    @app.get("/v1/refused")
    async def refused() -> str:
        quart.abort(401)

    @app.websocket("/v1/speak/<voice_id>")
    async def speak(voice_id: str) -> None:
        await quart.websocket.send(await quart.websocket.receive())

    return app


class FalconVoice:
    async def on_get(self, request: Any, response: Any, voice_id: Any) -> None:
        usage.set(voice=str(voice_id))
        response.text = "hello"


class FalconThread:
    async def on_get(self, request: Any, response: Any, voice_id: str) -> None:
        await asyncio.to_thread(usage.set, voice=voice_id)
        response.text = "hello"


class FalconStream:
    async def on_get(self, request: Any, response: Any) -> None:
        response.stream = chunks()


class FalconBroken:
    async def on_get(self, request: Any, response: Any) -> None:
        raise ZeroDivisionError


class FalconRefused:
    async def on_get(self, request: Any, response: Any) -> None:
        raise falcon.HTTPUnauthorized


def falcon_app() -> Any:
    app: Any = falcon.asgi.App()
    app.add_route("/v1/voices/{voice_id:int}", FalconVoice())
    app.add_route("/v1/sync/{voice_id}", FalconThread())
    app.add_route("/v1/stream", FalconStream())
    app.add_route("/v1/broken", FalconBroken())
    app.add_route("/v1/refused", FalconRefused())
    return app


CASES = [
    ("/v1/voices/7?q=1", "/v1/voices/{voice_id}", 200, "ok", ""),
    ("/v1/sync/alice", "/v1/sync/{voice_id}", 200, "ok", ""),
    ("/v1/stream", "/v1/stream", 200, "ok", ""),
    ("/v1/refused", "/v1/refused", 401, "client_error", ""),
    ("/v1/broken", "/v1/broken", 500, "exception", "ZeroDivisionError"),
    ("/v1/voices/seven", "__unmatched__", 404, "client_error", ""),
    ("/nothing", "__unmatched__", 404, "client_error", ""),
]


async def ask(app: Any, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        return await client.get(path)


async def check(meter: ListMeter, app: Any, case: tuple[str, str, int, str, str]) -> None:
    path, route, status, outcome, error = case
    response = await ask(app, path)

    event = meter.event
    assert (response.status_code, len(response.content)) == (status, event.response_bytes)
    assert (event.route, event.status, event.outcome, event.error) == (route, status, outcome, error)
    assert event.voice == {"/v1/voices/7": "7", "/v1/sync/alice": "alice"}.get(event.path, "")
    assert event.credits_micro == (3_000_000 if path == "/v1/stream" else 0)
    assert meter.failures() == []
    assert meter.idle()


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_litestar(meter: ListMeter, case: tuple[str, str, int, str, str]) -> None:
    await check(meter, UsageMeterMiddleware(litestar_app(), meter), case)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES[:5], ids=str)
async def test_litestar_with_its_own_list_of_middleware(meter: ListMeter, case: tuple[str, str, int, str, str]) -> None:
    """Litestar calls it there for matched routes only, and after it has made a response of an exception."""
    if case[3] == "exception":
        case = (*case[:3], "server_error", "")
    door: Any = DefineMiddleware(UsageMeterMiddleware, meter=meter)  # type: ignore[arg-type]
    await check(meter, litestar_app(middleware=[door]), case)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_quart(meter: ListMeter, case: tuple[str, str, int, str, str]) -> None:
    app = quart_app()
    app.asgi_app = UsageMeterMiddleware(app.asgi_app, meter)  # type: ignore[method-assign, assignment, arg-type]
    await check(meter, app, case)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_falcon(meter: ListMeter, case: tuple[str, str, int, str, str]) -> None:
    if case[3] == "exception":  # Falcon answers an exception without a word to anybody
        case = (*case[:3], "server_error", "")
    await check(meter, UsageMeterMiddleware(falcon_app(), meter), case)


async def test_a_quart_websocket(meter: ListMeter) -> None:
    app = quart_app()
    app.asgi_app = UsageMeterMiddleware(app.asgi_app, meter)  # type: ignore[method-assign, assignment, arg-type]
    async with app.test_client().websocket("/v1/speak/alice") as socket:
        await socket.send("hello")
        assert await socket.receive() == "hello"

    assert (meter.event.route, meter.event.outcome) == ("/v1/speak/{voice_id}", "ok")
    assert meter.event.quantities == {"messages_received": 1, "messages_sent": 1}
