"""The door for ASGI apps: Starlette, FastAPI, Litestar, Quart, Django, or none of them.

    app.add_middleware(UsageMeterMiddleware, meter=meter)        # or: app = UsageMeterMiddleware(app, meter=meter)

It looks at the messages that pass and changes none. The app's own exceptions pass untouched; none of ours reaches it.
The server's lifespan says when to begin, and when to send what is left (see `lifespan`).
"""

from usage_meter.asgi_call import App, ASGICall, Receive, Scope, Send
from usage_meter.call import Call, Metered
from usage_meter.current import current
from usage_meter.framework import listen
from usage_meter.http_call import HTTPCall
from usage_meter.lifespan import Lifespan
from usage_meter.websocket_call import WebSocketCall

PROGRESS_SECONDS = 30.0  # how often an open WebSocket reports: soon enough to be seen, seldom enough to cost nothing
CALLS: "dict[str, type[HTTPCall] | type[WebSocketCall]]" = {"http": HTTPCall, "websocket": WebSocketCall}


class UsageMeterMiddleware:
    """Records every HTTP request and WebSocket of `app` with `meter`; everything else passes through.

    An open WebSocket reports every `progress_seconds`: the same event with a higher version.
    """

    def __init__(self, app: App, meter: Metered, progress_seconds: float = PROGRESS_SECONDS) -> None:
        self.app = app
        self.meter = meter
        self.progress_seconds = progress_seconds
        self.route_by_path = listen(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = CALLS.get(scope["type"])
        if kind is None:
            await self._pass(scope, receive, send)
            return
        outer = current.get()
        if outer is not None and self._counts(outer, scope):
            await self.app(scope, receive, send)
            return
        try:
            call = kind(self, scope, receive, send)
        except Exception as error:  # guarded: a scope that the specification does not know is still the app's to serve
            self.meter.recorder.failed("asgi", error)
            await self.app(scope, receive, send)
            return
        call.outer = outer  # comes back at the end: an app may call another one within its own task
        current.set(call)
        try:
            if self.meter.identify is not None:
                await call.ask_later(self.meter.identify, scope)
            call.begin()
            await self.app(scope, call.receive, call.send)
        except BaseException as error:
            call.broke(error)
            raise
        else:
            call.returned()
        finally:
            current.set(call.outer)

    def _counts(self, outer: Call, scope: Scope) -> bool:
        """Whether this request has come through a door already, as where an app and one mounted in it both have one."""
        if not isinstance(outer, ASGICall) or outer.meter is not self.meter:
            return False
        before, headers = outer.scope, scope.get("headers")
        if not headers or before["headers"] is not headers:  # a mounted app may get another scope, with the very same
            return False
        # One that the app makes of its own request, as a batch does it, has another path below the same root.
        return scope.get("root_path") != before.get("root_path") or scope.get("path") == before["path"]

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is no call."""
        if scope["type"] == "lifespan":
            await Lifespan(self.meter.recorder, receive, send).run(self.app, scope)
        else:
            await self.app(scope, receive, send)
