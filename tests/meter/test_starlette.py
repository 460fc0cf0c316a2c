"""Starlette and FastAPI behind the ASGI door: route templates, and their own ways of answering."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import fastapi
import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from tests.meter.fakes import ListMeter
from usage_meter import usage
from usage_meter.asgi import UsageMeterMiddleware


async def answer(request: Request) -> Response:
    return PlainTextResponse("hello")


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
    await socket.close()


@pytest.fixture
def meter() -> ListMeter:
    return ListMeter()


def starlette_app(meter: ListMeter, directory: Path) -> Starlette:
    directory.joinpath("page.html").write_text("page")
    tenant = Router([Route("/voices/{voice_id:int}", answer), Route("/{name}", answer)])
    return Starlette(
        routes=[
            Route("/", answer),
            Route("/v1/voices/{voice_id}", answer, methods=["GET", "DELETE"]),
            Route("/files/{path:path}", answer),
            WebSocketRoute("/v1/speak/{voice_id}", echo),
            Mount("/tenants/{tenant}", app=tenant),
            Mount("/deep", routes=[Mount("/er/{level}", routes=[Route("/x/{level2}", answer)])]),
            Mount("/static", app=StaticFiles(directory=directory)),
            Host("api.example.org", app=Router([Route("/by-host/{id}", answer)])),
        ],
        middleware=[Middleware(UsageMeterMiddleware, meter=meter)],
    )


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/", "/", 200),
        ("GET", "/v1/voices/alice?q=1", "/v1/voices/{voice_id}", 200),
        ("DELETE", "/v1/voices/alice", "/v1/voices/{voice_id}", 200),
        ("POST", "/v1/voices/alice", "/v1/voices/{voice_id}", 405),
        ("OPTIONS", "/v1/voices/alice", "/v1/voices/{voice_id}", 405),
        ("GET", "/files/a/b/c", "/files/{path}", 200),
        ("GET", "/tenants/acme/voices/7", "/tenants/{tenant}/voices/{voice_id}", 200),
        ("GET", "/tenants/tenants/tenants", "/tenants/{tenant}/{name}", 200),
        ("GET", "/tenants/acme/no/such/route", "__unmatched__", 404),
        ("GET", "/deep/er/1/x/1", "/deep/er/{level}/x/{level2}", 200),
        ("GET", "/deep/er/1/", "__unmatched__", 404),
        ("GET", "/static/page.html", "/static/{path}", 200),
        ("GET", "/nothing/here", "__unmatched__", 404),
        ("GET", "/v1/voices/alice/", "__unmatched__", 307),
    ],
)
def test_starlettes_route_templates(
    meter: ListMeter, tmp_path: Path, method: str, path: str, route: str, status: int
) -> None:
    client = TestClient(starlette_app(meter, tmp_path), follow_redirects=False)
    assert client.request(method, path).status_code == status

    assert (meter.event.route, meter.event.method, meter.event.status) == (route, method, status)
    assert meter.event.path == path.partition("?")[0]


def test_a_route_behind_a_host(meter: ListMeter, tmp_path: Path) -> None:
    TestClient(starlette_app(meter, tmp_path), base_url="http://api.example.org").get("/by-host/7")

    assert meter.event.route == "/by-host/{id}"


@pytest.mark.parametrize("outside", [True, False])
def test_a_servers_own_root_path_is_no_part_of_the_route(tmp_path: Path, meter: ListMeter, outside: bool) -> None:
    app: ASGIApp = starlette_app(meter if not outside else ListMeter(), tmp_path)
    if outside:
        app = UsageMeterMiddleware(app, meter)
    TestClient(app, root_path="/proxy").get("/proxy/tenants/acme/voices/7")

    assert meter.event.route == "/tenants/{tenant}/voices/{voice_id}"


def test_a_middleware_on_a_mounted_app_names_the_whole_route(meter: ListMeter) -> None:
    inner = Starlette(
        routes=[Route("/voices/{id}", answer)], middleware=[Middleware(UsageMeterMiddleware, meter=meter)]
    )
    TestClient(Starlette(routes=[Mount("/tenants/{tenant}", app=inner)])).get("/tenants/acme/voices/7")

    assert meter.event.route == "/tenants/{tenant}/voices/{id}"


def test_a_call_through_the_doors_of_an_app_and_of_one_mounted_in_it_is_one(meter: ListMeter) -> None:
    async def said(request: Request) -> Response:
        usage.set(voice="alice")
        return PlainTextResponse("hello")

    door = [Middleware(UsageMeterMiddleware, meter=meter)]
    routes = [Route("/voices/{id}", said), WebSocketRoute("/speak", echo)]
    app = Starlette(routes=[Mount("/tenants/{tenant}", app=Starlette(routes=routes, middleware=door))], middleware=door)
    client = TestClient(UsageMeterMiddleware(app, meter))
    client.get("/tenants/acme/voices/7")
    with client.websocket_connect("/tenants/acme/speak") as socket:
        socket.send_text("hello")

    request, session = meter.events
    assert (request.route, request.voice, request.version) == ("/tenants/{tenant}/voices/{id}", "alice", 1)
    assert (session.route, session.quantities["messages_received"]) == ("/tenants/{tenant}/speak", 1)
    assert meter.idle()


def test_two_meters_count_each_for_itself(meter: ListMeter) -> None:
    another = ListMeter()
    TestClient(UsageMeterMiddleware(UsageMeterMiddleware(Starlette(), another), meter)).get("/")

    assert (len(meter.events), len(another.events)) == (1, 1)


def test_a_websockets_route(meter: ListMeter, tmp_path: Path) -> None:
    with TestClient(starlette_app(meter, tmp_path)).websocket_connect("/v1/speak/alice") as socket:
        socket.send_text("hello")
        assert socket.receive_text() == "hello"

    assert (meter.event.route, meter.event.outcome) == ("/v1/speak/{voice_id}", "ok")
    assert meter.event.quantities == {"messages_received": 1, "messages_sent": 1}


def fastapi_app(meter: ListMeter, directory: Path) -> fastapi.FastAPI:
    voices = fastapi.APIRouter(prefix="/voices")

    @voices.get("/{voice_id}")
    async def voice(voice_id: str) -> str:
        return voice_id

    @voices.websocket("/{voice_id}/speak")
    async def speak(websocket: WebSocket, voice_id: str) -> None:
        await echo(websocket)

    nested = fastapi.APIRouter(prefix="/accounts/{account}")
    nested.include_router(voices)
    nested.add_route("/plain/{id}", answer)
    nested.mount("/files", StaticFiles(directory=directory))
    app = fastapi.FastAPI()
    app.include_router(voices, prefix="/v1")
    app.include_router(voices, prefix="/v2")
    app.include_router(nested, prefix="/v3")
    app.add_route("/plain/{id}", answer)

    @app.get("/items/{item_id}")
    def item(item_id: int) -> int:
        return item_id

    inner = fastapi.FastAPI()
    inner.include_router(voices, prefix="/v4")
    inner.get("/direct/{id}")(item)
    app.mount("/inner/{tenant}", inner)
    app.mount("/static", StaticFiles(directory=directory))
    app.add_middleware(UsageMeterMiddleware, meter=meter)
    return app


@pytest.mark.parametrize(
    ("path", "route", "status"),
    [
        ("/items/7", "/items/{item_id}", 200),
        ("/items/seven", "/items/{item_id}", 422),
        ("/v1/voices/a", "/v1/voices/{voice_id}", 200),
        ("/v2/voices/a", "/v2/voices/{voice_id}", 200),
        ("/v3/accounts/7/voices/a", "/v3/accounts/{account}/voices/{voice_id}", 200),
        ("/v3/plain/1", "/v3/plain/{id}", 200),
        ("/v3/files/page.html", "/v3/files/{path}", 200),
        ("/plain/1", "/plain/{id}", 200),
        ("/docs", "/docs", 200),
        ("/openapi.json", "/openapi.json", 200),
        ("/inner/acme/v4/voices/a", "/inner/{tenant}/v4/voices/{voice_id}", 200),
        ("/inner/acme/docs", "/inner/{tenant}/docs", 200),
        ("/inner/acme/nothing", "__unmatched__", 404),
        ("/static/page.html", "/static/{path}", 200),
        ("/v1/voices", "__unmatched__", 404),
        ("/nothing", "__unmatched__", 404),
    ],
)
def test_fastapis_route_templates(meter: ListMeter, tmp_path: Path, path: str, route: str, status: int) -> None:
    tmp_path.joinpath("page.html").write_text("page")
    assert TestClient(fastapi_app(meter, tmp_path)).get(path).status_code == status

    assert (meter.event.route, meter.event.status) == (route, status)


def test_a_fastapi_websocket_behind_a_prefix(meter: ListMeter, tmp_path: Path) -> None:
    with TestClient(fastapi_app(meter, tmp_path)).websocket_connect("/v2/voices/a/speak") as socket:
        socket.send_text("hello")

    assert meter.event.route == "/v2/voices/{voice_id}/speak"


def test_streams_exceptions_and_background_tasks_of_starlette(meter: ListMeter) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"chunk"
            usage.set(credits=number)

    async def stream(request: Request) -> Response:
        return StreamingResponse(chunks())

    def plain_chunks() -> Iterator[bytes]:
        usage.set(voice="from-a-thread")
        yield b"chunk"

    def plain_stream(request: Request) -> Response:
        return StreamingResponse(plain_chunks())

    async def thread(request: Request) -> Response:
        await run_in_threadpool(usage.set, voice="from-a-thread")
        return PlainTextResponse("ok")

    def later() -> None:
        usage.set(credits=9)

    async def background(request: Request) -> Response:
        return PlainTextResponse("ok", background=BackgroundTask(later))

    async def broken(request: Request) -> Response:
        raise ZeroDivisionError

    async def dispatch(request: Request, call_next: Any) -> Response:
        usage.set(region="eu")
        return await call_next(request)  # type: ignore[no-any-return]

    app = Starlette(
        routes=[Route(f"/{each.__name__}", each) for each in (stream, plain_stream, thread, background, broken)],
        middleware=[
            Middleware(UsageMeterMiddleware, meter=meter),
            Middleware(BaseHTTPMiddleware, dispatch=dispatch),
        ],
    )
    client = TestClient(app, raise_server_exceptions=False)
    for path in ("/stream", "/plain_stream", "/thread", "/background", "/broken"):
        client.get(path)

    newest = {event.route: event for event in meter.events}
    assert (newest["/stream"].response_bytes, newest["/stream"].credits_micro) == (15, 2_000_000)
    assert newest["/plain_stream"].voice == "from-a-thread"
    assert newest["/thread"].voice == "from-a-thread"
    assert (newest["/background"].version, newest["/background"].credits_micro) == (2, 9_000_000)
    broken_call = newest["/broken"]
    assert (broken_call.status, broken_call.outcome, broken_call.error) == (500, "exception", "ZeroDivisionError")
    assert {event.region for event in newest.values()} == {"eu"}
    assert meter.idle()


async def test_a_file_that_starlette_hands_to_the_server_by_its_path(meter: ListMeter, tmp_path: Path) -> None:
    file = tmp_path / "speech.wav"
    file.write_bytes(b"x" * 100)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"",
        "extensions": {"http.response.pathsend": {}},
    }  # fmt: skip
    await UsageMeterMiddleware(FileResponse(file), meter)(scope, never, send)

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.pathsend"]
    assert sent[1]["path"] == str(file)
    assert (meter.event.response_bytes, meter.event.outcome, meter.event.version) == (100, "ok", 1)


async def never() -> Any:
    await asyncio.Event().wait()


class Behaving:
    """An app of many ways to answer, and what came of each, as a client and the app itself see it."""

    def __init__(self, wrap: Callable[[ASGIApp], ASGIApp], directory: Path) -> None:
        self.done: list[str] = []
        file = directory / "page.html"
        file.write_text("page")

        async def chunks() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"chunk %d" % number
            self.done.append("streamed")

        async def broken_chunks() -> AsyncIterator[bytes]:
            yield b"chunk"
            raise ZeroDivisionError("in the midst of it")

        async def body(request: Request) -> Response:
            return Response(await request.body(), 201, {"x-own": "header"}, "audio/wav")

        async def broken(request: Request) -> Response:
            raise ZeroDivisionError("at once")

        async def refused(request: Request) -> Response:
            raise HTTPException(418, "a teapot", {"x-tea": "green"})

        def late(fails: bool) -> None:
            self.done.append("late")
            if fails:
                raise ZeroDivisionError("afterwards")

        async def socket(socket: WebSocket) -> None:
            await socket.accept("v1", [(b"x-own", b"header")])
            await socket.send_text("hello")
            self.done.append(await socket.receive_text())
            await socket.close(4321, "enough")

        async def broken_socket(socket: WebSocket) -> None:
            await socket.accept()
            raise ZeroDivisionError("in a session")

        async def denied(socket: WebSocket) -> None:
            await socket.send_denial_response(PlainTextResponse("not you", 401))

        answers: dict[str, Callable[[Request], Any]] = {
            "stream": lambda request: StreamingResponse(chunks()),
            "broken-stream": lambda request: StreamingResponse(broken_chunks()),
            "file": lambda request: FileResponse(file),
            "empty": lambda request: Response(status_code=204),
            "later": lambda request: PlainTextResponse("ok", background=BackgroundTask(late, False)),
            "fails-later": lambda request: PlainTextResponse("ok", background=BackgroundTask(late, True)),
            "elsewhere": lambda request: RedirectResponse("/file"),
        }
        routes = [Route(f"/{name}", answer, methods=["GET", "POST"]) for name, answer in answers.items()]
        routes += [Route("/body", body, methods=["POST"]), Route("/broken", broken), Route("/refused", refused)]
        sockets = [WebSocketRoute("/socket", socket), WebSocketRoute("/broken", broken_socket)]
        self.app = wrap(Starlette(routes=[*routes, *sockets, WebSocketRoute("/denied", denied)]))

    def ask(self, method: str, path: str, content: bytes = b"") -> Any:
        try:
            answer = TestClient(self.app).request(method, path, content=content, follow_redirects=False)
        except Exception as error:
            return type(error), str(error), self.done
        return answer.status_code, sorted(answer.headers.multi_items()), answer.content, self.done

    def talk(self, path: str) -> Any:
        try:
            with TestClient(self.app).websocket_connect(path, ["v1"]) as socket:
                said = [socket.accepted_subprotocol, socket.extra_headers, socket.receive_text()]
                socket.send_text("hello to you")
                return said, socket.receive(), self.done
        except WebSocketDenialResponse as denial:
            return denial.status_code, denial.content
        except Exception as error:
            return type(error), str(error), self.done


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize(
    "path",
    ["/stream", "/broken-stream", "/file", "/empty", "/later", "/fails-later", "/elsewhere", "/body", "/broken",
     "/refused", "/nothing"],
)  # fmt: skip
def test_starlette_behaves_as_without_us(meter: ListMeter, tmp_path: Path, method: str, path: str) -> None:
    bare, metered = (
        Behaving(lambda app: app, tmp_path),
        Behaving(lambda app: UsageMeterMiddleware(app, meter), tmp_path),
    )

    assert metered.ask(method, path, b"content") == bare.ask(method, path, b"content")
    assert meter.failures() == []
    assert meter.idle()


@pytest.mark.parametrize("path", ["/socket", "/broken", "/denied", "/nothing"])
def test_starlettes_sockets_behave_as_without_us(meter: ListMeter, tmp_path: Path, path: str) -> None:
    bare, metered = (
        Behaving(lambda app: app, tmp_path),
        Behaving(lambda app: UsageMeterMiddleware(app, meter), tmp_path),
    )

    assert metered.talk(path) == bare.talk(path)
    assert meter.failures() == []
    assert meter.idle()


async def test_many_calls_at_once_keep_apart(meter: ListMeter) -> None:
    async def voice(request: Request) -> Response:
        name = request.path_params["name"]
        await run_in_threadpool(usage.set, voice=name)
        return PlainTextResponse(name * 2)

    app = UsageMeterMiddleware(Starlette(routes=[Route("/{name}", voice)]), meter)
    names = [f"voice-{number}" for number in range(50)]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        await asyncio.gather(*(client.get(f"/{name}") for name in names))

    newest = {event.id: event for event in meter.events}
    assert sorted((event.voice, event.response_bytes) for event in newest.values()) == sorted(
        (name, len(name) * 2) for name in names
    )
