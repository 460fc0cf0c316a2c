"""OpenTelemetry beside the meter: each event finds its trace, each server span says what was used, and HTTP metrics.

    instrument(meter)          # once, where the meter is made

It makes no spans. The server span is another's (an `opentelemetry-instrumentation-…`), outside of our middleware or
inside of it: the current span at a call's beginning, or the first server span that starts within the call. The metrics
have the names of the semantic conventions; where that other instrumentation makes them as well, leave ours out.
"""

from typing import Any

from opentelemetry import metrics, trace

from usage_meter.call import Call
from usage_meter.current import current
from usage_meter.event import MICRO, UsageEvent, id_text
from usage_meter.meter import Meter

SCOPE = "usage_meter"
DIMENSIONS = ("workspace", "user", "product", "voice", "model", "region", "source", "outcome")
"""Those fields of an event that a span gets, as `usage.NAME`."""

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
"""Bounds of the duration's buckets, which the semantic conventions give."""


def instrument(
    meter: Meter,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    http_metrics: bool = True,
) -> None:
    """Observes every call of `meter`. The providers are by default the global ones, whenever those are set."""
    made = HTTPMetrics(metrics.get_meter(SCOPE, meter_provider=meter_provider)) if http_metrics else None
    meter.observer = SpanObserver(tracer_provider, made)


class SpanObserver:
    """Keeps a call's span at the call (`span`), and adds to both what they know of each other."""

    def __init__(self, tracer_provider: trace.TracerProvider | None, http_metrics: "HTTPMetrics | None") -> None:
        self._tracer_provider = tracer_provider
        self._metrics = http_metrics
        self._listens = False

    def began(self, call: Call) -> None:
        if not self._listens:  # not before: the app may set its global provider after it has made its meter
            self._listen()
        span = trace.get_current_span()
        if span.get_span_context().is_valid:
            call.span = span
        if self._metrics is not None:
            self._metrics.began(call)

    def recording(self, call: Call) -> None:
        span = trace.get_current_span() if call.span is None else call.span
        context = span.get_span_context()
        if not context.is_valid:
            return
        event = call.event
        event.trace_id = trace.format_trace_id(context.trace_id)
        event.attributes = {**event.attributes, "span_id": trace.format_span_id(context.span_id)}
        if span is call.span and span.is_recording() and _is_server(span):
            span.set_attributes(span_attributes(event))

    def ended(self, call: Call) -> None:
        if self._metrics is not None and call.event.kind == "request":
            self._metrics.ended(call)

    def _listen(self) -> None:
        provider: Any = self._tracer_provider or trace.get_tracer_provider()
        if hasattr(provider, "add_span_processor"):  # one of the SDK, so its spans can be heard of
            self._listens = True
            provider.add_span_processor(ServerSpans())


class ServerSpans:
    """A span processor: the first server span that starts within a call is the call's."""

    def on_start(self, span: Any, parent_context: object = None) -> None:
        if _is_server(span) and (call := current.get()) and not _is_server(call.span):
            call.span = span

    def _on_ending(self, span: object) -> None:
        """Part of the SDK's interface, as is what follows."""

    def on_end(self, span: object) -> None: ...

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class HTTPMetrics:
    """`http.server.*` of requests; a WebSocket is none."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._duration = meter.create_histogram(
            "http.server.request.duration",
            unit="s",
            description="Duration of HTTP server requests.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._request_size = meter.create_histogram(
            "http.server.request.body.size", unit="By", description="Size of HTTP server request bodies."
        )
        self._response_size = meter.create_histogram(
            "http.server.response.body.size", unit="By", description="Size of HTTP server response bodies."
        )
        self._active = meter.create_up_down_counter(
            "http.server.active_requests", unit="{request}", description="Number of active HTTP server requests."
        )

    def began(self, call: Call) -> None:
        if call.event.method != "WEBSOCKET":
            self._active.add(1, _request_attributes(call))

    def ended(self, call: Call) -> None:
        event = call.event
        if event.method == "WEBSOCKET":
            return
        attributes = _request_attributes(call)
        self._active.add(-1, attributes)
        attributes |= {"http.response.status_code": event.status}
        if event.route:
            attributes["http.route"] = event.route
        if event.outcome in ("server_error", "exception", "disconnected"):
            attributes["error.type"] = event.error or (event.outcome if event.status < 500 else str(event.status))
        context = None if call.span is None else trace.set_span_in_context(call.span)
        self._duration.record(event.duration_us / 1e6, attributes, context)
        self._request_size.record(event.request_bytes, attributes, context)
        self._response_size.record(event.response_bytes, attributes, context)


def span_attributes(event: UsageEvent) -> dict[str, str | float]:
    """What was used, as `usage.*`."""
    texts = {f"usage.{name}": getattr(event, name) for name in DIMENSIONS}
    return {
        **{name: text for name, text in texts.items() if text},
        "usage.event_id": id_text(event.id),
        "usage.credits": event.credits_micro / MICRO,
        **{f"usage.quantity.{name}": number for name, number in event.quantities.items()},
        **{f"usage.attribute.{name}": text for name, text in event.attributes.items() if name != "span_id"},
    }


def _request_attributes(call: Call) -> dict[str, str | int]:
    method = call.event.method
    return {
        "http.request.method": "_OTHER" if method == "__other__" else method,
        "url.scheme": call.scheme() or "http",
    }


def _is_server(span: Any) -> bool:
    return getattr(span, "kind", None) is trace.SpanKind.SERVER
