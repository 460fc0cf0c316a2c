"""The door for Django's own `MIDDLEWARE`, under WSGI and ASGI alike.

    MIDDLEWARE = ["usage_meter.django.UsageMeterMiddleware", ...]      # first: then all the others are inside
    USAGE_METER = Meter(identify=who_called)                           # optional: else a Meter of the environment

Django tells here what it tells nobody outside: the route, and the exception behind a 500. The middleware stands
alone, or inside one of the other doors, which see a client leave and the bytes pass: then it only tells that door.
"""

from asyncio import CancelledError
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.contrib.admindocs.utils import (
    remove_non_capturing_groups,
    replace_metacharacters,
    replace_named_groups,
    replace_unnamed_groups,
)
from django.http import FileResponse, HttpRequest
from django.http.response import HttpResponseBase
from django.urls import Resolver404, get_script_prefix, resolve

from usage_meter.body import BodyCall, Chunks, LaterChunks
from usage_meter.call import CLIENT_CLOSED, Metered
from usage_meter.caller import TEXT_LENGTH, clean, sent_key
from usage_meter.current import current
from usage_meter.meter import Meter
from usage_meter.route import UNMATCHED, braces

T = TypeVar("T")


@lru_cache(1024)  # a project's routes are few, and each is asked for again and again
def template(route: str) -> str:
    """A route of `path` or `re_path` as ours: `voices/<int:id>/` and `^voices/(?P<id>[0-9]+)/$` → `/voices/{id}/`."""
    for simplify in (
        remove_non_capturing_groups,
        replace_named_groups,
        replace_unnamed_groups,
        replace_metacharacters,
    ):
        route = simplify(route)
    return "/" + braces(route).replace("\\.", ".").lstrip("/")


def route_of(match: Any) -> str:
    return UNMATCHED if match is None else template(match.route)


def route_of_path(path: str) -> str:
    """The route that Django would choose: for a door outside that has no middleware inside to tell it."""
    prefix = get_script_prefix().rstrip("/")
    try:
        return route_of(resolve(path.removeprefix(prefix)))
    except Resolver404:
        return UNMATCHED


class UsageMeterMiddleware:
    """Records every request with the Meter that the setting `USAGE_METER` holds. `identify` gets environ or scope."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self.meter: Metered = getattr(settings, "USAGE_METER", None) or _meter()
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self):
            return self._later(request)
        call = self._call(request)
        if call is None:
            return _told(request, self.get_response(request))
        current.set(call)
        try:
            if self.meter.identify is not None:
                call.ask(self.meter.identify, _source(request))
            call.begin()
            return call.answered(self.get_response(request))
        except BaseException as error:
            call.broke(error)
            raise
        finally:
            current.set(None)

    async def _later(self, request: HttpRequest) -> Any:
        call = self._call(request)
        if call is None:
            return _told(request, await self.get_response(request))
        current.set(call)
        try:
            if self.meter.identify is not None:
                await call.ask_later(self.meter.identify, _source(request))
            call.begin()
            return call.answered(await self.get_response(request))
        except BaseException as error:
            call.broke(error)
            raise
        finally:
            current.set(None)

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Django is about to make a response of this exception."""
        if call := current.get():
            call.note_exception(exception)

    def _call(self, request: HttpRequest) -> "DjangoCall | None":
        if current.get() is not None:
            return None  # another door has the call: it is told what Django knows
        try:
            return DjangoCall(self, request)
        except Exception as error:  # guarded: whatever the request is, it is the app's to serve
            self.meter.recorder.failed("django", error)
            return None


class DjangoCall(BodyCall):
    """One request, from the first middleware on to the last chunk of its response."""

    def __init__(self, door: UsageMeterMiddleware, request: HttpRequest) -> None:
        identity = door.meter.callers.by_key(sent_key(request.META))
        super().__init__(door.meter, request.method or "", request.path, identity)
        self.request = request
        self.read_headers(request.META)

    def framework_route(self) -> str:
        return route_of(self.request.resolver_match)

    def scheme(self) -> str:
        return str(self.request.scheme)

    def broke(self, error: BaseException) -> None:
        if isinstance(error, CancelledError) and not self.finished:  # Django's way to say that the client has left
            self.outcome = "disconnected"
            self.event.status = self.event.status or CLIENT_CLOSED
            self.finish()
        super().broke(error)

    def answered(self, response: HttpResponseBase) -> HttpResponseBase:
        """The response that Django sends: with its stream watched, if it is one."""
        try:
            self._read(response)
        except Exception as error:  # guarded: a response of the app's own kind still goes its way
            self.meter.recorder.failed("django", error)
            self.finish()
        return response

    def _read(self, response: Any) -> None:
        self.event.status = response.status_code
        given = response.headers.get("request-id") or response.headers.get("x-request-id")
        if given:
            self.event.request_id = clean(given, TEXT_LENGTH)
        if isinstance(response, FileResponse):  # the server may send the file by itself: it counts as sent whole
            self.sent(int(response.headers.get("content-length", 0)))
        elif response.streaming:
            content = response.streaming_content
            response.streaming_content = LaterChunks(self, content) if response.is_async else Chunks(self, content)
            return
        else:
            self.sent(len(response.content))
        self.ended()


def _source(request: Any) -> object:
    """What `identify` is asked about: the scope under ASGI, the environ under WSGI."""
    return request.scope if hasattr(request, "scope") else request.environ


def _told(request: HttpRequest, response: T) -> T:
    """The response, after the door outside was told the route."""
    if (call := current.get()) and not call.event.route:
        call.event.route = route_of(request.resolver_match)
    return response


@lru_cache(1)  # however often Django builds its middleware, a process records through one meter
def _meter() -> Meter:
    return Meter()
