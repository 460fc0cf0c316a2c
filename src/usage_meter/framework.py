"""What frameworks keep to themselves, and are asked to tell: which route they chose, which exception they answered.

By their public hooks only, put in place once, when the app is wrapped; what a hook says goes to the current call.
Nothing of a framework is imported unless the app is made of it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from usage_meter.current import current
from usage_meter.route import UNMATCHED, braces, route_of_environ

LAYERS = 16  # middlewares that are looked through on the way to the framework's own app; more would be a cycle

RouteByPath = Callable[[str], str]
"""The route of a path for which nothing told one."""


def listen(app: Any) -> RouteByPath:
    """Asks the framework that `app` is made of, when it is one of those that have to be asked."""
    for layer in _layers(app):
        for base in type(layer).__mro__:  # in this order: Quart's app is in part Flask's
            package = base.__module__.partition(".")[0]
            if package in ASK:
                return ASK[package](layer)
    return _no_router


def _layers(app: Any) -> Iterator[Any]:
    """The app, and what it is a middleware of; a bound method (`app.wsgi_app`) stands for its object."""
    for _ in range(LAYERS):
        app = getattr(app, "__self__", app)
        yield app
        app = getattr(app, "app", None)
        if app is None:
            return


def _no_router(path: str) -> str:
    return ""


def _unmatched(path: str) -> str:
    return UNMATCHED


def _ask_flask(app: Any) -> RouteByPath:
    from flask import got_request_exception

    got_request_exception.connect(_flask_failure, app)
    return _unmatched


def _ask_quart(app: Any) -> RouteByPath:
    from quart import got_request_exception, got_websocket_exception

    got_request_exception.connect(_quart_failure, app)
    got_websocket_exception.connect(_quart_failure, app)
    app.before_request(_quart_route)
    app.before_websocket(_quart_route)
    return _unmatched


def _ask_falcon(app: Any) -> RouteByPath:
    app.add_middleware(_FalconRoute())
    return _unmatched


def _ask_litestar(app: Any) -> RouteByPath:
    if hasattr(app, "after_exception"):  # the app itself, not one of its layers
        app.after_exception.append(_litestar_exception)
    return _unmatched


def _ask_django(app: Any) -> RouteByPath:
    from usage_meter.django import route_of_path

    return route_of_path


ASK: dict[str, Callable[[Any], RouteByPath]] = {
    "django": _ask_django,
    "falcon": _ask_falcon,
    "flask": _ask_flask,
    "litestar": _ask_litestar,
    "quart": _ask_quart,
}


def _flask_failure(app: Any, exception: BaseException, **extra: object) -> None:
    """The exception; and its route, for when it passes through Flask without a response."""
    from flask import request

    if call := current.get():
        call.note_exception(exception)
        if request.url_rule and not call.event.route:
            call.event.route = route_of_environ(request.environ, getattr(call, "script_name", "")) or ""


def _quart_failure(app: Any, exception: BaseException, **extra: object) -> None:
    if call := current.get():
        call.note_exception(exception)


async def _litestar_exception(exception: BaseException, scope: Any) -> None:
    if call := current.get():
        call.note_exception(exception)


async def _quart_route() -> None:
    from quart import has_websocket_context, request, websocket

    rule = (websocket if has_websocket_context() else request).url_rule
    if (call := current.get()) and not call.event.route:
        call.event.route = UNMATCHED if rule is None else braces(rule.rule)


class _FalconRoute:
    """A Falcon component, for its WSGI and ASGI apps; it is asked only when a route was found."""

    def process_resource(self, request: Any, response: Any, resource: object, params: object) -> None:
        if (call := current.get()) and not call.event.route:
            call.event.route = braces(request.uri_template)

    async def process_resource_async(self, request: Any, response: Any, resource: object, params: object) -> None:
        self.process_resource(request, response, resource, params)
