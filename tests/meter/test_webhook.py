"""Webhooks: an event for each attempt to deliver, by hand, by httpx and by requests."""

import asyncio
import gc
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import fastapi
import httpx
import pytest
import requests
from starlette.testclient import TestClient

from tests.conftest import RedisServer, wait_until
from tests.meter.fakes import ListMeter
from usage_meter import Caller, Meter, UsageEvent, usage
from usage_meter.call import Call
from usage_meter.current import current
from usage_meter.httpx import AsyncUsageMeterTransport, UsageMeterTransport
from usage_meter.requests import UsageMeterAdapter
from usage_meter.webhook import Attempt, Webhook, public_address

URL = "https://hooks.acme.com/transcripts/done?signature=secret"
ALICE = Caller("acme", "alice", ("staff",), "sk_0123456789abcdef")


@pytest.fixture
def meter() -> ListMeter:
    return ListMeter()


def said(event: UsageEvent) -> tuple[str, int, str, str]:
    return event.attributes["attempt"], event.status, event.outcome, event.error


def test_each_attempt_is_an_event_with_its_number(meter: ListMeter) -> None:
    webhook = Webhook(meter, URL, route="transcript.done", caller=ALICE, values={"product": "speech_to_text"})
    with pytest.raises(TimeoutError), webhook:
        raise TimeoutError
    for status in (503, 200):
        with webhook as attempt:
            attempt.answered(status, response_bytes=12)

    assert [said(event) for event in meter.events] == [
        ("1", 0, "exception", "TimeoutError"),
        ("2", 503, "server_error", ""),
        ("3", 200, "ok", ""),
    ]
    last = meter.events[-1]
    assert (last.kind, last.method, last.route, last.path) == (
        "webhook",
        "POST",
        "transcript.done",
        "hooks.acme.com/transcripts/done",
    )
    assert (last.workspace, last.user, last.groups, last.product) == ("acme", "alice", ("staff",), "speech_to_text")
    assert last.api_key == meter.callers.of(ALICE).api_key
    assert last.ttfb_us is not None
    assert last.ttfb_us <= last.duration_us
    assert last.response_bytes == 12
    assert len({event.id for event in meter.events}) == 3
    assert len({event.request_id for event in meter.events}) == 1


async def test_it_is_entered_in_async_code_too(meter: ListMeter) -> None:
    webhook = Webhook(meter, URL, attempt=4)
    with pytest.raises(asyncio.CancelledError):
        async with webhook:
            raise asyncio.CancelledError
    async with webhook as attempt:
        attempt.answered(204)
        attempt.set(credits="0.5", region="eu")

    assert [said(event) for event in meter.events] == [("4", 0, "exception", "CancelledError"), ("5", 204, "ok", "")]
    assert (meter.events[1].credits_micro, meter.events[1].region) == (500_000, "eu")


def test_a_webhook_is_its_call_s_unless_told_otherwise(meter: ListMeter) -> None:
    call = Call(meter, "POST", "/v1/speech-to-text", meter.callers.of(ALICE))
    call.trace("request-7", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    current.set(call)
    try:
        with Webhook(meter, URL):
            usage.set(voice="the call's own")
        with Webhook(meter, URL, caller=Caller("globex"), request_id="delivery-1"):
            pass
    finally:
        current.set(None)

    mine, other = meter.events
    assert (mine.workspace, mine.user, mine.api_key_hint) == ("acme", "alice", "cdef")
    assert (mine.request_id, mine.trace_id, mine.voice) == ("request-7", "0af7651916cd43dd8448eb211c80319c", "")
    assert (other.workspace, other.user, other.request_id) == ("globex", "", "delivery-1")
    assert call.event.voice == "the call's own"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://hooks.acme.com/done?token=s3cret#top", "hooks.acme.com/done"),
        ("http://user:s3cret@10.0.0.7:8080/a/b", "10.0.0.7:8080/a/b"),
        (f"https://hooks.slack.com/services/T0000/B0000/{'aB3' * 8}", "hooks.slack.com/services/T0000/B0000/***"),
        ("https://a.com/7c9e6679-7425-40de-944b-e07fc1f90ae7/text-to-speech-done", "a.com/***/text-to-speech-done"),
        ("https://example.com", "example.com"),
        ("", ""),
    ],
)
def test_of_the_url_no_secret_is_kept(url: str, address: str) -> None:
    assert public_address(url) == address


def test_strange_values_never_reach_the_app(meter: ListMeter) -> None:
    strange: Any = object()
    with Webhook(
        meter, "http://[", route=strange, method=strange, caller=strange, attempt=strange, request_id=strange
    ) as attempt:
        attempt.answered(strange)
        attempt.set(credits="much", voice=strange)

    assert (meter.event.kind, meter.event.status, meter.event.outcome) == ("webhook", 0, "ok")
    assert set(meter.failures()) == {"webhook", "usage.set"}


def test_the_meter_makes_them() -> None:
    with Meter(redis_url="redis://127.0.0.1:1/0", environ={}) as meter:
        with meter.webhook(URL, route="done", attempt=2, model="scribe") as attempt:
            attempt.answered(200)
        assert (attempt.event.route, attempt.event.model, said(attempt.event)) == (
            "done",
            "scribe",
            ("2", 200, "ok", ""),
        )
        assert meter.recorder.statistics().recorded == 1
        meter.close(0)


class Receiver(BaseHTTPRequestHandler):
    """A customer's server: the path says with which status it answers."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(int(self.path.partition("?")[0].rpartition("/")[2]))
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"taken")

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


BODY = json.dumps({"text": "hello"}).encode()


def by_httpx(meter: ListMeter, url: str) -> int:
    with httpx.Client(transport=UsageMeterTransport(meter)) as client:
        return client.post(url, content=BODY).status_code


def by_httpx_later(meter: ListMeter, url: str) -> int:
    async def post() -> int:
        async with httpx.AsyncClient(transport=AsyncUsageMeterTransport(meter)) as client:
            return (await client.post(url, content=BODY)).status_code

    return asyncio.run(post())


def by_requests(meter: ListMeter, url: str) -> int:
    with requests.Session() as session:
        session.mount("http://", UsageMeterAdapter(meter))
        return session.post(url, data=BODY).status_code


CLIENTS = [by_httpx, by_httpx_later, by_requests]


@pytest.mark.parametrize("post", CLIENTS)
def test_a_client_s_request_is_an_attempt(post: Any, meter: ListMeter, receiver: str) -> None:
    assert post(meter, f"http://user:pass@{receiver}/hooks/503?token=secret") == 503

    event = meter.event
    assert (event.kind, event.method, event.version) == ("webhook", "POST", 1)
    assert event.route == event.path == f"{receiver}/hooks/503"
    assert said(event) == ("1", 503, "server_error", "")
    assert (event.request_bytes, event.response_bytes) == (len(BODY), 5)
    assert event.ttfb_us is not None
    assert 0 < event.ttfb_us <= event.duration_us
    assert "secret" not in repr(event)
    assert "pass" not in repr(event)


@pytest.mark.parametrize("post", CLIENTS)
def test_a_request_within_a_webhook_is_its_attempt(post: Any, meter: ListMeter, receiver: str) -> None:
    webhook = Webhook(meter, f"http://{receiver}/hooks/200", route="done", caller=ALICE)
    for status in (500, 200):
        with webhook:
            assert post(meter, f"http://{receiver}/hooks/{status}") == status

    assert [said(event) for event in meter.events] == [("1", 500, "server_error", ""), ("2", 200, "ok", "")]
    assert {(event.user, event.route, event.request_bytes, event.response_bytes) for event in meter.events} == {
        ("alice", "done", len(BODY), 5)
    }


def test_one_that_is_left_in_another_context_is_recorded_all_the_same(meter: ListMeter) -> None:
    app = fastapi.FastAPI()

    def delivery() -> Iterator[Attempt]:  # FastAPI enters and leaves it in two threads, each with a context of its own
        with Webhook(meter, URL) as attempt:
            yield attempt

    @app.get("/")
    def deliver(attempt: Annotated[Attempt, fastapi.Depends(delivery)]) -> None:
        attempt.answered(202)

    with TestClient(app) as client:
        assert client.get("/").status_code == 200

    assert said(meter.event) == ("1", 202, "ok", "")


async def test_a_task_that_outlives_an_attempt_makes_its_own(meter: ListMeter, receiver: str) -> None:
    over = asyncio.Event()

    async def later() -> None:
        await over.wait()
        async with httpx.AsyncClient(transport=AsyncUsageMeterTransport(meter)) as client:
            await client.post(f"http://{receiver}/hooks/503", content=BODY)

    async with Webhook(meter, URL, route="done") as attempt:
        task = asyncio.create_task(later())
        attempt.answered(200)
    over.set()
    await task

    assert [(event.route, event.status) for event in meter.events] == [
        ("done", 200),
        (f"{receiver}/hooks/503", 503),
    ]


@pytest.mark.parametrize(
    ("post", "error"),
    [
        (by_httpx, httpx.ConnectError),
        (by_httpx_later, httpx.ConnectError),
        (by_requests, requests.ConnectionError),
    ],
)
def test_no_answer_is_an_exception_that_passes(post: Any, error: type[Exception], meter: ListMeter) -> None:
    with pytest.raises(error):
        post(meter, "http://127.0.0.1:1/hooks")

    assert said(meter.event) == ("1", 0, "exception", error.__name__)


async def test_an_answer_that_breaks_off_is_an_exception(meter: ListMeter) -> None:
    class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield b"half"
            raise httpx.ReadError("cut")

        async def __aiter__(self) -> Any:
            yield b"half"
            raise httpx.ReadError("cut")

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Broken())

    wire = httpx.MockTransport(answer)
    with httpx.Client(transport=UsageMeterTransport(meter, wire)) as client, pytest.raises(httpx.ReadError):
        await asyncio.to_thread(client.post, URL)
    async with httpx.AsyncClient(transport=AsyncUsageMeterTransport(meter, wire)) as later:
        with pytest.raises(httpx.ReadError):
            await later.post(URL)

    assert [said(event) for event in meter.events] == [("1", 200, "exception", "ReadError")] * 2
    assert [event.response_bytes for event in meter.events] == [4, 4]


class Endless(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __iter__(self) -> Iterator[bytes]:
        yield b"first"
        yield b"second"

    async def __aiter__(self) -> Any:
        yield b"first"
        yield b"second"


ENDLESS = httpx.MockTransport(lambda request: httpx.Response(200, stream=Endless()))


def test_a_streamed_answer_that_is_dropped_is_a_disconnect(meter: ListMeter) -> None:
    client = httpx.Client(transport=UsageMeterTransport(meter, ENDLESS))
    response = client.send(client.build_request("POST", URL), stream=True)
    assert next(response.iter_raw()) == b"first"
    assert not meter.events

    del response
    gc.collect()

    wait_until(lambda: bool(meter.events), "it is recorded")
    assert said(meter.event) == ("1", 200, "disconnected", "")
    assert meter.event.response_bytes == 5


async def test_an_asynchronous_one_too(meter: ListMeter) -> None:
    client = httpx.AsyncClient(transport=AsyncUsageMeterTransport(meter, ENDLESS))
    await client.send(client.build_request("POST", URL), stream=True)  # nobody takes the answer

    gc.collect()

    wait_until(lambda: bool(meter.events), "it is recorded")
    assert said(meter.event) == ("1", 200, "disconnected", "")


def test_one_that_was_read_to_its_end_is_recorded_once(meter: ListMeter) -> None:
    client = httpx.Client(transport=UsageMeterTransport(meter, ENDLESS))
    for _ in range(2):
        assert client.post(URL).content == b"firstsecond"
    gc.collect()

    assert [said(event) for event in meter.events] == [("1", 200, "ok", "")] * 2


def test_garbage_that_is_collected_within_the_recorder_does_not_wait_for_it(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """The collector may run while this thread holds the recorder's lock: what waited for it here would wait forever."""
    with Meter(redis_server.url, journal_dir=tmp_path, environ={}) as meter:
        meter.recorder.open()
        outbox = meter.recorder._outbox
        assert outbox is not None
        client = httpx.Client(transport=UsageMeterTransport(meter, ENDLESS))
        response = client.send(client.build_request("POST", URL), stream=True)

        with outbox._lock:
            del response
            gc.collect()
            assert outbox.recorded == 0

        wait_until(lambda: meter.recorder.statistics().sent == 1, "it is recorded and sent")
