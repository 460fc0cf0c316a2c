"""The apps that `benchmarks.middleware` measures: one small app per framework, under one middleware or none.

    python -m benchmarks.variants VARIANT            # answers "FRAMEWORK CALLS" on stdin with the nanoseconds it took

A variant lives in a process of its own, since some set up the whole process; for a server it is made by
`from_environment`. A peer is set up as its own documentation does it, with exporters that lead to a local sink.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

NONE, OURS = "no middleware", "usage-meter"
INSTRUMENTATOR, EXPORTER, APITALLY = "prometheus-fastapi-instrumentator", "starlette-exporter", "apitally"
OTEL, OTEL_SHORT = "opentelemetry-asgi", "opentelemetry-asgi, no receive/send spans"
VARIANTS = [NONE, OURS, INSTRUMENTATOR, EXPORTER, OTEL_SHORT, OTEL, APITALLY]

BARE, STARLETTE, FASTAPI, WSGI = "bare ASGI", "Starlette", "FastAPI", "bare WSGI"
FRAMEWORKS = [BARE, STARLETTE, FASTAPI, WSGI]
CAN = {  # which variant goes with which framework; the others have no door for it
    NONE: FRAMEWORKS,
    OURS: FRAMEWORKS,
    INSTRUMENTATOR: [STARLETTE, FASTAPI],
    EXPORTER: [BARE, STARLETTE, FASTAPI],
    OTEL_SHORT: [BARE, STARLETTE, FASTAPI],
    OTEL: [BARE, STARLETTE, FASTAPI],
    APITALLY: [STARLETTE, FASTAPI],
}

PATH = "/v1/voices/21m00Tcm4TlvDq8ikWAM"
TEMPLATE = "/v1/voices/{voice_id}"
HEADERS = [  # what a client of such an API sends
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"xi-api-key", b"sk_0123456789abcdef0123456789abcdef"),
]


async def bare(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


def bare_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"hello"]


def starlette(*middleware: Middleware) -> Starlette:
    async def voice(request: Request) -> Response:
        return PlainTextResponse("hello")

    return Starlette(routes=[Route(TEMPLATE, voice)], middleware=list(middleware))


def fastapi(*middleware: Middleware) -> FastAPI:
    app = FastAPI(middleware=list(middleware))

    @app.get(TEMPLATE, response_class=PlainTextResponse)
    async def voice(voice_id: str) -> str:
        return "hello"

    return app


def build(framework: str, variant: str) -> Any:
    """The framework's app under the variant's middleware."""
    if framework == WSGI:
        return bare_wsgi if variant == NONE else _ours_wsgi()
    if variant == INSTRUMENTATOR:
        return _instrumented(framework)
    if variant == APITALLY:
        return _apitally(framework)
    middleware = {NONE: list, OURS: _ours, EXPORTER: _exporter, OTEL_SHORT: _otel_short, OTEL: _otel}[variant]()
    if framework == BARE:
        app: Any = bare
        for each in middleware:
            wrapped: Any = each.cls
            app = wrapped(app, **each.kwargs)
        return app
    return (starlette if framework == STARLETTE else fastapi)(*middleware)


def _meter() -> Any:
    from usage_meter import Meter

    return Meter()  # USAGE_METER_REDIS_URL and USAGE_METER_JOURNAL_DIR are set


def _ours() -> list[Middleware]:
    from usage_meter.asgi import UsageMeterMiddleware

    return [Middleware(UsageMeterMiddleware, meter=_meter())]


def _ours_wsgi() -> Any:
    from usage_meter.wsgi import UsageMeterMiddleware

    return UsageMeterMiddleware(bare_wsgi, meter=_meter())


def _instrumented(framework: str) -> Any:
    from prometheus_client import CollectorRegistry
    from prometheus_fastapi_instrumentator import Instrumentator

    app = starlette() if framework == STARLETTE else fastapi()
    Instrumentator(registry=CollectorRegistry()).instrument(app)
    return app


def _exporter() -> list[Middleware]:
    from starlette_exporter import PrometheusMiddleware

    return [Middleware(PrometheusMiddleware, app_name=os.urandom(4).hex(), group_paths=True)]


def _otel_short() -> list[Middleware]:
    return _otel(exclude_spans=["receive", "send"])


def _otel(**options: Any) -> list[Middleware]:
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Sink(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    tracer_provider = TracerProvider()
    tracer_provider.add_span_processor(BatchSpanProcessor(Sink()))
    meter_provider = MeterProvider([InMemoryMetricReader()])
    options |= {"tracer_provider": tracer_provider, "meter_provider": meter_provider}
    return [Middleware(OpenTelemetryMiddleware, **options)]


def _apitally(framework: str) -> Any:
    import apitally.fastapi
    import apitally.starlette

    app = starlette() if framework == STARLETTE else fastapi()
    package = apitally.starlette if framework == STARLETTE else apitally.fastapi
    package.init(app, write_token="apt_" + "0" * 24, env="benchmark")  # APITALLY_OTLP_ENDPOINT is the sink
    return app


def from_environment() -> Any:
    return build(os.environ["BENCHMARK_FRAMEWORK"], os.environ["BENCHMARK_VARIANT"])


async def _receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _send(message: Any) -> None:
    return None


def scope() -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": PATH,
        "raw_path": PATH.encode(),
        "query_string": b"",
        "headers": [(bytes(bytearray(name)), value) for name, value in HEADERS],  # new objects, as a server makes them
        "state": {},
    }


def environ() -> dict[str, Any]:
    headers = {f"HTTP_{name.decode().upper().replace('-', '_')}": value.decode() for name, value in HEADERS}
    return {"REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": PATH, "QUERY_STRING": "", **headers}


async def _run_asgi(app: Any, calls: int) -> int:
    scopes = [scope() for _ in range(calls)]
    started = time.perf_counter_ns()
    for each in scopes:
        await app(each, _receive, _send)
    return time.perf_counter_ns() - started


def _run_wsgi(app: Any, calls: int) -> int:
    environs = [environ() for _ in range(calls)]
    started = time.perf_counter_ns()
    for each in environs:
        body = app(each, lambda status, headers: None)
        for _ in body:
            pass
        if hasattr(body, "close"):
            body.close()
    return time.perf_counter_ns() - started


def main() -> None:
    variant = sys.argv[1]
    apps = {framework: build(framework, variant) for framework in CAN[variant]}
    loop = asyncio.new_event_loop()
    for line in sys.stdin:
        framework, calls = line.rsplit(" ", 1)
        run: Callable[[Any, int], Any] = _run_wsgi if framework == WSGI else _run_asgi
        took = run(apps[framework], int(calls))
        print(took if framework == WSGI else loop.run_until_complete(took), flush=True)


if __name__ == "__main__":
    main()
