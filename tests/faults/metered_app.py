"""The app that the fault suite runs behind real servers: it answers at once, and is metered from the environment."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from usage_meter import Meter
from usage_meter.asgi import UsageMeterMiddleware as ASGIMiddleware
from usage_meter.wsgi import UsageMeterMiddleware as WSGIMiddleware

meter = Meter()

Message = MutableMapping[str, Any]


async def answer(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    assert scope["type"] == "http"  # it knows no lifespan: the middleware closes the meter
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def answer_in_wsgi(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


asgi_app = ASGIMiddleware(answer, meter)
wsgi_app = WSGIMiddleware(answer_in_wsgi, meter)
