"""WebSockets at the ASGI door: one call from the handshake to the close, visible while it lives."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.meter.fakes import ListMeter, known
from usage_meter import Caller, usage
from usage_meter.asgi import UsageMeterMiddleware
from usage_meter.asgi_call import App, Message, Receive, Scope, Send

CONNECT: Message = {"type": "websocket.connect"}
ACCEPT: Message = {"type": "websocket.accept"}


def text(content: str) -> Message:
    return {"type": "websocket.receive", "text": content}


def left(code: int) -> Message:
    return {"type": "websocket.disconnect", "code": code}


def socket_scope() -> Scope:
    return {"type": "websocket", "path": "/v1/speak", "headers": [(b"xi-api-key", b"sk_0123456789abcdef")]}


class Client:
    """What the client says, and what it hears."""

    def __init__(self, *says: Message) -> None:
        self.says = [CONNECT, *says]
        self.hears: list[Message] = []

    async def receive(self) -> Message:
        if not self.says:
            await asyncio.Event().wait()
        return self.says.pop(0)

    async def send(self, message: Message) -> None:
        self.hears.append(message)

    async def talk(self, app: App) -> None:
        await app(socket_scope(), self.receive, self.send)


async def speak(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers each text with six bytes, until the client leaves."""
    await receive()
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        usage.set(characters=len(message.get("text") or ""))
        await send({"type": "websocket.send", "bytes": b"speech"})


def closing(code: int, *, accept: bool = True) -> App:
    """An app that closes by itself."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if accept:
            await send(ACCEPT)
        await send({"type": "websocket.close", "code": code})

    return app


@pytest.fixture
async def meter() -> AsyncIterator[ListMeter]:
    meter = ListMeter(known(Caller("acme")))
    yield meter
    assert meter.idle()
    assert meter.failures() == []


async def test_a_session_is_one_event_at_its_close(meter: ListMeter) -> None:
    client = Client(text("hällo"), {"type": "websocket.receive", "bytes": b"abc"}, left(1000))
    await client.talk(UsageMeterMiddleware(speak, meter))

    event = meter.event
    assert (event.method, event.path, event.status, event.outcome) == ("WEBSOCKET", "/v1/speak", 101, "ok")
    assert (event.request_bytes, event.response_bytes) == (9, 12)
    assert event.quantities == {"messages_received": 2, "messages_sent": 2, "characters": 0}
    assert event.attributes == {"close_code": "1000"}
    assert event.ttfb_us is not None
    assert event.version == 1
    assert client.hears[0] is ACCEPT


@pytest.mark.parametrize(
    ("code", "outcome"), [(1000, "ok"), (1001, "ok"), (1005, "ok"), (4000, "ok"), (1006, "disconnected")]
)
async def test_how_the_client_leaves(meter: ListMeter, code: int, outcome: str) -> None:
    await Client(left(code)).talk(UsageMeterMiddleware(speak, meter))

    assert (meter.event.outcome, meter.event.attributes) == (outcome, {"close_code": str(code)})


@pytest.mark.parametrize(
    ("code", "outcome"), [(1000, "ok"), (1008, "client_error"), (4401, "client_error"), (1011, "server_error")]
)
async def test_how_the_app_closes(meter: ListMeter, code: int, outcome: str) -> None:
    await Client().talk(UsageMeterMiddleware(closing(code), meter))

    assert (meter.event.outcome, meter.event.status) == (outcome, 101)
    assert meter.event.attributes == {"close_code": str(code)}


async def test_a_refused_handshake_is_a_403(meter: ListMeter) -> None:
    await Client().talk(UsageMeterMiddleware(closing(1000, accept=False), meter))

    assert (meter.event.outcome, meter.event.status) == ("client_error", 403)


async def test_a_handshake_denied_with_a_response_has_its_status(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b"no"})

    await Client().talk(UsageMeterMiddleware(app, meter))

    assert (meter.event.outcome, meter.event.status, meter.event.response_bytes) == ("client_error", 401, 2)


async def test_an_app_that_just_returns_has_closed_normally(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)

    await Client().talk(UsageMeterMiddleware(app, meter))

    assert (meter.event.outcome, meter.event.attributes) == ("ok", {"close_code": "1000"})


@pytest.mark.parametrize(("accept", "status"), [(True, 101), (False, 500)])
async def test_an_exception_ends_the_session(meter: ListMeter, accept: bool, status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if accept:
            await send(ACCEPT)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Client().talk(UsageMeterMiddleware(app, meter))

    assert (meter.event.outcome, meter.event.error) == ("exception", "ZeroDivisionError")
    assert meter.event.status == status


async def test_what_is_set_after_the_client_left_corrects_the_event(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await speak(scope, receive, send)
        usage.set(credits=5)

    await Client(left(1000)).talk(UsageMeterMiddleware(app, meter))

    assert (meter.event.version, meter.event.credits_micro) == (2, 5_000_000)


async def test_a_long_session_reports_while_it_lives_and_is_one_call(meter: ListMeter) -> None:
    three_reports = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        usage.set(credits=2)
        await three_reports.wait()
        usage.set(credits=3)

    def record(event: Any, replaces: Any = None) -> bool:
        if len(meter.events) == 3:
            three_reports.set()
        return take(event, replaces)

    take = meter.recorder.record
    meter.recorder.record = record  # type: ignore[method-assign]
    await Client().talk(UsageMeterMiddleware(app, meter, progress_seconds=0.001))

    *reports, last = meter.events
    assert len({event.id for event in meter.events}) == 1
    assert [event.version for event in meter.events] == list(range(1, len(meter.events) + 1))
    assert [event.credits_micro for event in reports] == [2_000_000] * len(reports)
    assert (last.credits_micro, last.outcome, last.attributes) == (3_000_000, "ok", {"close_code": "1000"})
    durations = [event.duration_us for event in meter.events]
    assert durations == sorted(durations)
    replaced = [event.credits_micro for event in meter.recorder.replaced if event]
    assert replaced == [event.credits_micro for event in reports]


async def test_after_the_close_nothing_more_is_reported(meter: ListMeter) -> None:
    loop = asyncio.get_running_loop()
    await Client(left(1000)).talk(UsageMeterMiddleware(speak, meter, progress_seconds=0.0))
    later = loop.create_future()
    loop.call_later(0.005, later.set_result, None)
    await later

    assert meter.event.attributes == {"close_code": "1000"}
    assert meter.events[-1].attributes == {"close_code": "1000"}
    assert all(event.attributes == {} for event in meter.events[:-1])


async def test_a_session_counts_as_concurrent_for_its_whole_life(meter: ListMeter) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(meter.recorder.in_flight["acme", ""])

    await Client().talk(UsageMeterMiddleware(app, meter))

    assert seen == [1]


async def test_a_session_that_says_when_it_is_busy_counts_only_then(meter: ListMeter) -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with usage.busy():
            seen.append(meter.recorder.in_flight["acme", ""])
        seen.append(meter.recorder.in_flight["acme", ""])
        with usage.busy(), usage.busy():
            seen.append(meter.recorder.in_flight["acme", ""])
        seen.append(meter.recorder.in_flight["acme", ""])

    await Client().talk(UsageMeterMiddleware(app, meter))

    assert seen == [1, 0, 1, 0]


async def test_a_session_that_ends_while_busy_is_counted_no_more(meter: ListMeter) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        with usage.busy():
            await send({"type": "websocket.close", "code": 1000})
            assert meter.idle()
        with usage.busy():
            assert meter.idle()

    await Client().talk(UsageMeterMiddleware(app, meter))

    assert meter.event.outcome == "ok"
