"""The route template of a call (`/v1/voices/{voice_id}`), from what the framework's router left behind.

Nothing is matched a second time where the router says what it chose: Starlette and FastAPI put the route into the
ASGI scope, Litestar the template, Flask its request into the environ; others are asked to note it (see `framework`). A
mount puts its real path into `root_path`, so its parameters are turned back into their names, else each tenant's prefix
would be a route of its own. Whatever a framework's way to write a parameter is, here it is `{name}`.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

UNMATCHED = "__unmatched__"
"""The one route of all calls that the router found no route for."""

Scope = Mapping[str, Any]


def route_of(scope: Scope) -> str | None:
    """The template of the route that an ASGI app chose; None when the scope does not say it."""
    route = scope.get("route")
    if route is None or "fastapi" in scope:
        template = scope.get("path_template")  # Litestar
        return _fastapi_route(scope, route) if template is None else str(template)
    return _within_mounts(scope, _own_template(route))


def _own_template(route: Any) -> str | None:
    """The template of a route by itself; None for a mount whose own router found nothing."""
    template: str = getattr(route, "path_format", "/{path}")  # a host has none
    if template.endswith("/{path}") and hasattr(route, "routes"):
        # The last one chosen is a mount: what has no routes, such as static files, has answered itself.
        return None if route.routes else "/{path}"
    return template


def _fastapi_route(scope: Scope, route: Any) -> str | None:
    """FastAPI keeps the template with all prefixes of `include_router` apart from the route, and names none for
    a plain Starlette route (`/docs`, `/openapi.json`)."""
    context = scope.get("fastapi", {}).get("effective_route_context")
    if context is not None and (route is None or context.original_route is route):
        chosen = getattr(context, "starlette_route", None) or context
        if route is not None or getattr(chosen, "endpoint", None) is scope.get("endpoint"):
            return _within_mounts(scope, chosen.path_format)
    if route is not None:
        return _within_mounts(scope, _own_template(route))
    if "endpoint" in scope:
        return _route_by_endpoint(scope)
    return UNMATCHED if "app" in scope or "router" in scope else None


def _route_by_endpoint(scope: Scope) -> str:
    """Older Starlettes name only the endpoint: the one route that has it, else the first that the path fits."""
    endpoint = scope["endpoint"]
    fitting = list(_templates(getattr(scope.get("router"), "routes", ()), endpoint, ""))
    if len(fitting) > 1:
        path = scope["path"]
        fitting = [(template, fits) for template, fits in fitting if fits.match(path)] or fitting
    if fitting:
        return fitting[0][0]
    if "app_root_path" in scope:  # a mounted app: its own router found nothing, or it has none
        return _within_mounts(scope, None if hasattr(endpoint, "routes") else "/{path}")
    return UNMATCHED


def _templates(routes: Iterable[Any], endpoint: Any, prefix: str) -> Iterable[tuple[str, Any]]:
    for route in routes:
        if getattr(route, "endpoint", None) is endpoint:
            yield prefix + route.path_format, route.path_regex
        elif inner := getattr(route, "routes", None):
            yield from _templates(inner, endpoint, prefix + getattr(route, "path", ""))


def _within_mounts(scope: Scope, template: str | None) -> str:
    """The template behind its mounts' own templates."""
    if template is None:
        return UNMATCHED
    if "app_root_path" not in scope:  # set by the first mount only
        return template
    outside, inside = scope["app_root_path"], scope["root_path"]
    if not inside.startswith(outside):
        return template
    return _with_names(inside[len(outside) :], scope.get("path_params", {}), template) + template


def _with_names(prefix: str, params: dict[str, Any], template: str) -> str:
    """A mount's real path with its parameters' names in the place of their values (`/tenants/a` → `/tenants/{t}`)."""
    segments = prefix.split("/")
    for name, value in params.items():
        if f"{{{name}}}" in template:  # the route's own parameter, not the mount's
            continue
        for position in range(len(segments) - 1, 0, -1):  # parameters stand behind the words that announce them
            if segments[position] == str(value):
                segments[position] = f"{{{name}}}"
                break
    return "/".join(segments)


def route_of_environ(environ: Mapping[str, Any], script_name: str) -> str | None:
    """The template of the route that Flask chose; None for another framework.

    `script_name` is what it was outside: what stands in the environ now has the mounts between.
    """
    request = environ.get("werkzeug.request")
    if request is None or not hasattr(request, "url_rule"):
        return None
    if request.url_rule is None:
        return UNMATCHED
    return str(environ.get("SCRIPT_NAME", ""))[len(script_name) :] + braces(request.url_rule.rule)


@lru_cache(1024)  # an app's routes are few, and each is asked for again and again
def braces(rule: str) -> str:
    """A route of Werkzeug, Quart, Falcon or Django as ours: `/users/<int:id>` and `/users/{id:int}` → `/users/{id}`."""
    rule = re.sub(r"<(?:[^<>:]*:)?([^<>]+)>", r"{\1}", rule)
    return re.sub(r"{([^{}:]+):[^{}]*}", r"{\1}", rule)
