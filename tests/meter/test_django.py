"""Django: by its own MIDDLEWARE, behind the WSGI and ASGI doors, and both together."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import django
import httpx
import pytest
from asgiref.testing import ApplicationCommunicator
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import include, path, re_path
from werkzeug.test import Client

from tests.meter.fakes import ListMeter, known, known_later
from usage_meter import Caller, asgi, usage, wsgi
from usage_meter.caller import Identify

FILE = Path(tempfile.gettempdir()) / "usage-meter-django-test.wav"


def voice(request: HttpRequest, voice_id: Any) -> HttpResponse:
    usage.set(voice=str(voice_id))
    return HttpResponse("hello", headers={"Request-Id": "from-app"})


async def later_voice(request: HttpRequest, voice_id: str) -> HttpResponse:
    usage.set(voice=voice_id)
    return HttpResponse("hello")


def stream(request: HttpRequest) -> StreamingHttpResponse:
    def chunks() -> Iterator[bytes]:
        yield b"one"
        usage.set(credits=3)
        yield b"two"

    return StreamingHttpResponse(chunks())


async def later_stream(request: HttpRequest) -> StreamingHttpResponse:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one"
        usage.set(credits=3)
        yield b"two"

    return StreamingHttpResponse(chunks())


def file(request: HttpRequest) -> FileResponse:
    FILE.write_bytes(b"x" * 100)
    return FileResponse(FILE.open("rb"))


def broken(request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError


async def endless(request: HttpRequest) -> HttpResponse:
    await asyncio.Event().wait()
    return HttpResponse("never")


urls = ModuleType("usage_meter_test_urls")
urls.urlpatterns = [  # type: ignore[attr-defined]
    path("v1/", include([path("voices/<int:voice_id>/", voice), re_path(r"^old/(?P<voice_id>[a-z]+)\.json$", voice)])),
    path("v1/later/<str:voice_id>", later_voice),
    path("v1/stream", stream),
    path("v1/later-stream", later_stream),
    path("v1/file", file),
    path("v1/broken", broken),
    path("v1/endless", endless),
]
sys.modules[urls.__name__] = urls

if not settings.configured:
    settings.configure(ROOT_URLCONF=urls.__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test", USE_TZ=True)
    django.setup()

pytestmark = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
MIDDLEWARE = ["usage_meter.django.UsageMeterMiddleware"]

CASES = [
    ("/v1/voices/7/?q=1", "/v1/voices/{voice_id}/", 200, "ok", ""),
    ("/v1/old/alice.json", "/v1/old/{voice_id}.json", 200, "ok", ""),
    ("/v1/later/alice", "/v1/later/{voice_id}", 200, "ok", ""),
    ("/v1/stream", "/v1/stream", 200, "ok", ""),
    ("/v1/file", "/v1/file", 200, "ok", ""),
    ("/v1/broken", "/v1/broken", 500, "exception", "ZeroDivisionError"),
    ("/v1/voices/seven/", "__unmatched__", 404, "client_error", ""),
    ("/nothing", "__unmatched__", 404, "client_error", ""),
]


def check(meter: ListMeter, case: tuple[str, str, int, str, str], status: int, size: int) -> None:
    asked, route, expected, outcome, error = case
    event = meter.event
    assert (status, event.status, size) == (expected, expected, event.response_bytes)
    assert (event.route, event.outcome, event.error) == (route, outcome, error)
    assert event.path == asked.partition("?")[0]
    assert event.voice == ("7" if "/7/" in asked else "alice" if "alice" in asked else "")
    assert event.credits_micro == (3_000_000 if "stream" in asked else 0)
    assert event.version == 1
    assert meter.failures() == []
    assert meter.idle()


async def get(app: Any, asked: str, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as client:
        return await client.get(asked, headers=headers)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_djangos_middleware_under_wsgi(case: tuple[str, str, int, str, str]) -> None:
    meter = ListMeter()
    with override_settings(MIDDLEWARE=MIDDLEWARE, USAGE_METER=meter):
        response = Client(WSGIHandler()).get(case[0])
        size = len(response.data)
        response.close()

    check(meter, case, response.status_code, size)


@pytest.mark.parametrize("case", [*CASES, ("/v1/later-stream", "/v1/later-stream", 200, "ok", "")], ids=str)
async def test_djangos_middleware_under_asgi(case: tuple[str, str, int, str, str]) -> None:
    meter = ListMeter()
    with override_settings(MIDDLEWARE=MIDDLEWARE, USAGE_METER=meter):
        response = await get(ASGIHandler(), case[0])

    check(meter, case, response.status_code, len(response.content))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_wsgi_door_with_and_without_the_middleware_inside(
    case: tuple[str, str, int, str, str], inside: bool
) -> None:
    if not inside and case[3] == "exception":  # only the middleware sees the exception that Django answers
        case = (*case[:3], "server_error", "")
    meter = ListMeter()
    with override_settings(MIDDLEWARE=MIDDLEWARE if inside else [], USAGE_METER=ListMeter()):
        response = Client(wsgi.UsageMeterMiddleware(WSGIHandler(), meter)).get(case[0])
        size = len(response.data)
        response.close()

    check(meter, case, response.status_code, size)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_asgi_door_with_and_without_the_middleware_inside(
    case: tuple[str, str, int, str, str], inside: bool
) -> None:
    if not inside and case[3] == "exception":
        case = (*case[:3], "server_error", "")
    meter = ListMeter()
    with override_settings(MIDDLEWARE=MIDDLEWARE if inside else [], USAGE_METER=ListMeter()):
        response = await get(asgi.UsageMeterMiddleware(ASGIHandler(), meter), case[0])

    check(meter, case, response.status_code, len(response.content))


@pytest.mark.parametrize("identify", [known(Caller("acme", "alice")), known_later(Caller("acme", "alice"))])
async def test_identify_under_asgi(identify: Identify) -> None:
    meter = ListMeter(identify)
    with override_settings(MIDDLEWARE=MIDDLEWARE, USAGE_METER=meter):
        await get(ASGIHandler(), "/v1/later/alice", **{"x-request-id": "from-client"})

    assert (meter.event.workspace, meter.event.user) == ("acme", "alice")
    assert meter.event.request_id == "from-client"


def test_identify_and_ids_under_wsgi() -> None:
    meter = ListMeter(lambda environ: Caller("acme", environ["HTTP_X_USER"]))
    with override_settings(MIDDLEWARE=MIDDLEWARE, USAGE_METER=meter):
        Client(WSGIHandler()).get("/v1/voices/7/", headers={"X-User": "alice"})

    assert (meter.event.workspace, meter.event.user) == ("acme", "alice")
    assert meter.event.request_id == "from-app"


def test_a_wsgi_stream_that_is_closed_before_its_end_is_a_disconnect() -> None:
    meter = ListMeter()
    with override_settings(MIDDLEWARE=MIDDLEWARE, USAGE_METER=meter):
        response = Client(WSGIHandler()).get("/v1/stream")
        next(response.iter_encoded())
        response.close()

    assert (meter.event.outcome, meter.event.response_bytes) == ("disconnected", 3)
    assert meter.idle()


async def test_a_client_that_leaves_while_an_async_view_works_is_a_disconnect() -> None:
    meter = ListMeter()
    scope = {"type": "http", "method": "GET", "path": "/v1/endless", "headers": [], "query_string": b""}
    with override_settings(MIDDLEWARE=MIDDLEWARE, USAGE_METER=meter):
        server: Any = ApplicationCommunicator(ASGIHandler(), scope)  # type: ignore[no-untyped-call]
        await server.send_input({"type": "http.request"})
        await server.send_input({"type": "http.disconnect"})
        await server.wait()

    assert (meter.event.outcome, meter.event.status) == ("disconnected", 499)
    assert meter.idle()
