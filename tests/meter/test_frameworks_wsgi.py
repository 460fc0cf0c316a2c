"""Flask, Falcon and Django behind the WSGI door: templates, exceptions, streams and files of the real frameworks."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import falcon
import falcon.testing
import flask
import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from tests.meter.fakes import ListMeter
from usage_meter import usage
from usage_meter.wsgi import UsageMeterMiddleware


@pytest.fixture
def meter() -> ListMeter:
    return ListMeter()


def flask_app(file: Path) -> flask.Flask:
    app = flask.Flask(__name__)

    @app.get("/voices/<int:voice_id>")
    def voice(voice_id: int) -> str:
        usage.set(voice=str(voice_id), credits=2)
        return "hello"

    @app.get("/stream/<path:name>")
    def stream(name: str) -> flask.Response:
        def chunks() -> Iterator[bytes]:
            yield b"one"
            usage.set(credits=3)
            yield b"two"

        return flask.Response(chunks())

    @app.get("/broken")
    def broken() -> str:
        raise ZeroDivisionError

    @app.get("/busy")
    def busy() -> tuple[str, int]:
        return "busy", 503

    @app.get("/file")
    def send() -> flask.Response:
        return flask.send_file(file)

    return app


@pytest.fixture
def flask_client(meter: ListMeter, tmp_path: Path) -> Client:
    file = tmp_path / "speech.wav"
    file.write_bytes(b"x" * 100)
    app = flask_app(file)
    app.wsgi_app = UsageMeterMiddleware(app.wsgi_app, meter)  # type: ignore[method-assign]
    return Client(app)


@pytest.mark.parametrize(
    ("path", "route", "status", "outcome"),
    [
        ("/voices/7?q=1", "/voices/{voice_id}", 200, "ok"),
        ("/stream/a/b", "/stream/{name}", 200, "ok"),
        ("/file", "/file", 200, "ok"),
        ("/busy", "/busy", 503, "server_error"),
        ("/voices/seven", "__unmatched__", 404, "client_error"),
        ("/nothing", "__unmatched__", 404, "client_error"),
    ],
)
def test_flasks_routes(
    meter: ListMeter, flask_client: Client, path: str, route: str, status: int, outcome: str
) -> None:
    response = flask_client.get(path)
    size = len(response.data)
    response.close()

    assert (response.status_code, meter.event.response_bytes) == (status, size)
    assert (meter.event.route, meter.event.status, meter.event.outcome) == (route, status, outcome)
    assert meter.idle()


def test_flask_in_a_handler_and_in_its_stream(meter: ListMeter, flask_client: Client) -> None:
    for path in ("/voices/7", "/stream/x"):
        assert flask_client.get(path).data

    newest = {event.route: event for event in meter.events}
    assert (newest["/voices/{voice_id}"].voice, newest["/voices/{voice_id}"].credits_micro) == ("7", 2_000_000)
    assert newest["/stream/{name}"].credits_micro == 3_000_000


def test_an_exception_that_flask_answers_is_recorded_with_its_class(meter: ListMeter, flask_client: Client) -> None:
    assert flask_client.get("/broken").status_code == 500

    assert (meter.event.outcome, meter.event.error) == ("exception", "ZeroDivisionError")
    assert meter.event.route == "/broken"


def test_an_exception_that_flask_lets_pass_keeps_its_route(meter: ListMeter, tmp_path: Path) -> None:
    app = flask_app(tmp_path)
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(ZeroDivisionError):
        Client(UsageMeterMiddleware(app, meter)).get("/broken")

    assert (meter.event.outcome, meter.event.error) == ("exception", "ZeroDivisionError")
    assert (meter.event.route, meter.event.status) == ("/broken", 500)


def test_a_flask_app_below_another(meter: ListMeter, tmp_path: Path) -> None:
    app = UsageMeterMiddleware(DispatcherMiddleware(flask.Flask("outer"), {"/api": flask_app(tmp_path)}), meter)
    Client(app).get("/api/voices/7")

    assert (meter.event.route, meter.event.path) == ("/api/voices/{voice_id}", "/api/voices/7")


def test_a_call_through_the_doors_of_both_is_one(meter: ListMeter, tmp_path: Path) -> None:
    inner, outer = flask_app(tmp_path), flask.Flask("outer")
    inner.wsgi_app = UsageMeterMiddleware(inner.wsgi_app, meter)  # type: ignore[method-assign]
    app = UsageMeterMiddleware(DispatcherMiddleware(outer, {"/api": inner}), meter)
    assert Client(app).get("/api/voices/7").data == b"hello"

    assert (meter.event.route, meter.event.voice, meter.event.version) == ("/api/voices/{voice_id}", "7", 1)
    assert meter.idle()


class Voice:
    def on_get(self, request: falcon.Request, response: falcon.Response, voice_id: int) -> None:
        usage.set(voice=str(voice_id))
        response.text = "hello"


class Stream:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"one"
            usage.set(credits=3)
            yield b"two"

        response.stream = chunks()


class File:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        response.set_stream(BytesIO(b"x" * 100), 100)


class Broken:
    def on_get(self, request: falcon.Request, response: falcon.Response) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("path", "route", "status", "size"),
    [
        ("/voices/7?q=1", "/voices/{voice_id}", 200, 5),
        ("/stream", "/stream", 200, 6),
        ("/file", "/file", 200, 100),
        ("/nothing", "__unmatched__", 404, None),
        ("/broken", "/broken", 500, None),
    ],
)
def test_falcons_routes(meter: ListMeter, path: str, route: str, status: int, size: int | None) -> None:
    app = falcon.App()
    app.add_route("/voices/{voice_id:int}", Voice())
    app.add_route("/stream", Stream())
    app.add_route("/file", File())
    app.add_route("/broken", Broken())
    response = falcon.testing.TestClient(UsageMeterMiddleware(app, meter)).simulate_get(path)
    assert response.status_code == status

    assert (meter.event.route, meter.event.status) == (route, status)
    assert meter.event.response_bytes == len(response.content)
    assert size in (None, meter.event.response_bytes)
    assert meter.event.outcome == {200: "ok", 404: "client_error", 500: "server_error"}[status]
    assert meter.idle()
