"""OpenTelemetry beside the meter: its own instrumentation stands outside of ours or inside, and both tell the truth."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

from tests.meter.fakes import ListMeter, known
from usage_meter import Caller, usage
from usage_meter.asgi import UsageMeterMiddleware
from usage_meter.asgi_call import App, Message, Receive, Scope, Send
from usage_meter.event import UsageEvent, id_text
from usage_meter.otel import instrument
from usage_meter.webhook import Webhook
from usage_meter.wsgi import UsageMeterMiddleware as WSGIMiddleware

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Telemetry:
    """A tracer and a meter provider that keep what they get, and a meter that is instrumented with them."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.meter = ListMeter(known(Caller("acme", "alice")))
        instrument(
            self.meter,  # type: ignore[arg-type]  # a fake one
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
        )

    def theirs(self, app: App) -> Any:
        return OpenTelemetryMiddleware(app, tracer_provider=self.tracer_provider)

    def ours(self, app: App) -> App:
        return UsageMeterMiddleware(app, self.meter)

    def server_spans(self) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return [
            point
            for scope in scopes
            if scope.scope.name == "usage_meter"
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


ORDERS: dict[str, Callable[[Telemetry, App], App]] = {
    "theirs outside": lambda telemetry, app: telemetry.theirs(telemetry.ours(app)),
    "theirs inside": lambda telemetry, app: telemetry.ours(telemetry.theirs(app)),
}


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def scope_of(path: str, **headers: str) -> Scope:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http", "method": "GET", "path": path, "scheme": "https", "query_string": b"", "headers": pairs,
        "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 5000), "http_version": "1.1", "root_path": "",
    }  # fmt: skip


async def call(app: App, scope: Scope) -> int:
    """The bytes of the body that came."""
    received = 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal received
        received += len(message.get("body", b""))

    await app(scope, receive, send)
    return received


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Ten chunks of as many bytes as the path says; others are served in between."""
    size = int(scope["path"].rpartition("/")[2])
    usage.set(route="/v1/{size}", voice="en-us", credits="1.5", characters=size, tier="gold")
    length = str(size * 10).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    for left in reversed(range(10)):
        await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": left > 0})


def by_size(events: list[UsageEvent]) -> list[UsageEvent]:
    return sorted(events, key=lambda event: event.response_bytes)


@pytest.mark.parametrize("order", ORDERS)
async def test_each_event_and_its_server_span_find_each_other(order: str, telemetry: Telemetry) -> None:
    app = ORDERS[order](telemetry, stream)

    sizes = await asyncio.gather(call(app, scope_of("/v1/1", traceparent=TRACEPARENT)), call(app, scope_of("/v1/100")))

    assert [*sizes] == [10, 1000]
    small, large = by_size(telemetry.meter.events)
    assert [small.response_bytes, large.response_bytes] == [10, 1000]
    assert small.trace_id == TRACEPARENT[3:35]
    spans = {format_span_id(span.context.span_id): span for span in telemetry.server_spans()}
    assert len(spans) == 2
    for event in (small, large):
        span = spans[event.attributes["span_id"]]
        assert format_trace_id(span.context.trace_id) == event.trace_id
        attributes = dict(span.attributes or {})
        assert {name: value for name, value in attributes.items() if name.startswith("usage.")} == {
            "usage.workspace": "acme",
            "usage.user": "alice",
            "usage.voice": "en-us",
            "usage.outcome": "ok",
            "usage.credits": 1.5,
            "usage.event_id": id_text(event.id),
            "usage.quantity.characters": event.response_bytes / 10,
            "usage.attribute.tier": "gold",
        }
    assert telemetry.meter.failures() == []


@pytest.mark.parametrize("order", ORDERS)
async def test_metrics_have_the_names_of_the_conventions_and_each_call_s_own_size(
    order: str, telemetry: Telemetry
) -> None:
    app = ORDERS[order](telemetry, stream)

    await asyncio.gather(call(app, scope_of("/v1/1")), call(app, scope_of("/v1/100")))

    (duration,) = telemetry.points("http.server.request.duration")
    assert duration.count == 2
    assert duration.sum == pytest.approx(sum(event.duration_us for event in telemetry.meter.events) / 1e6)
    assert dict(duration.attributes) == {
        "http.request.method": "GET",
        "url.scheme": "https",
        "http.response.status_code": 200,
        "http.route": "/v1/{size}",
    }
    (size,) = telemetry.points("http.server.response.body.size")
    assert (size.count, size.sum, size.min, size.max) == (2, 1010, 10, 1000)
    (active,) = telemetry.points("http.server.active_requests")
    assert active.value == 0


async def test_an_exception_is_counted_with_its_type_and_passes(telemetry: Telemetry) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        (active,) = telemetry.points("http.server.active_requests")
        assert active.value == 1
        raise LookupError

    with pytest.raises(LookupError):
        await call(telemetry.theirs(telemetry.ours(broken)), scope_of("/"))

    (duration,) = telemetry.points("http.server.request.duration")
    assert duration.attributes["error.type"] == "LookupError"
    assert duration.attributes["http.response.status_code"] == 500
    (span,) = telemetry.server_spans()
    assert (span.attributes or {})["usage.outcome"] == "exception"


async def test_what_is_set_after_the_span_has_ended_changes_the_event_only(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        await stream(scope, receive, send)
        usage.set(credits=7)

    await call(telemetry.ours(telemetry.theirs(late)), scope_of("/v1/1"))

    assert [event.credits_micro for event in telemetry.meter.events] == [1_500_000, 7_000_000]
    assert len({event.attributes["span_id"] for event in telemetry.meter.events}) == 1
    (span,) = telemetry.server_spans()
    assert (span.attributes or {})["usage.credits"] == 1.5
    assert caplog.messages == []


async def test_without_any_span_the_client_s_trace_is_kept(telemetry: Telemetry) -> None:
    await call(telemetry.ours(stream), scope_of("/v1/1", traceparent=TRACEPARENT))

    assert telemetry.meter.event.trace_id == TRACEPARENT[3:35]
    assert "span_id" not in telemetry.meter.event.attributes


def test_wsgi_and_webhooks_find_the_current_span(telemetry: Telemetry) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with Webhook(telemetry.meter, "https://hooks.acme.com") as attempt:
            attempt.answered(200)
        start_response("200 OK", [])
        return [b"hello"]

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/x", "wsgi.url_scheme": "http"}
    tracer = telemetry.tracer_provider.get_tracer("test")
    with tracer.start_as_current_span("request", kind=SpanKind.SERVER) as span:
        body: Any = WSGIMiddleware(app, telemetry.meter)(environ, lambda *arguments: len)
        assert b"".join(body) == b"hello"
        body.close()

    webhook, request = telemetry.meter.events
    trace_id = format_trace_id(span.get_span_context().trace_id)
    assert (webhook.kind, webhook.trace_id, request.trace_id) == ("webhook", trace_id, trace_id)
    (duration,) = telemetry.points("http.server.request.duration")
    assert (duration.count, duration.attributes["url.scheme"]) == (1, "http")


async def test_an_observer_that_fails_does_not_reach_the_app() -> None:
    class Broken:
        def began(self, call: object) -> None:
            raise LookupError

        recording = ended = began

    meter = ListMeter()
    meter.observer = Broken()
    app = UsageMeterMiddleware(stream, meter)

    assert await call(app, scope_of("/v1/1")) == 10
    assert meter.event.response_bytes == 10
    assert meter.failures() == ["observer"] * 3
