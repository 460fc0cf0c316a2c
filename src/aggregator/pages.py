"""The pages: server-rendered, the address is the view, nothing from another host, nothing evaluated as code.

Everything that a page shows is made by pure modules (`view`, `controls`, `usage_page`, `charts`); here it is asked for,
put into a template and sent with the headers that keep it safe. A question that makes no sense gets its page all the
same, with the message at the control that is wrong.
"""

import gzip
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import jinja2
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from aggregator import charts, controls, usage_page
from aggregator.api import PrincipalOf
from aggregator.assets import Asset, Assets
from aggregator.buckets import from_us
from aggregator.colors import THEMES
from aggregator.drawing import Drawing
from aggregator.errors import AggregatorError, BusyError, NotFoundError, QueryError, StoreError
from aggregator.parameters import usage_query, zone_of
from aggregator.query import UsageAnswer, UsageQuery
from aggregator.reader import Reader
from aggregator.tokens import ForbiddenError, Principal, TokenError
from aggregator.view import View, canonical
from aggregator.wording import moment_name

logger = logging.getLogger(__name__)

YEAR_SECONDS = 31_536_000  # how long a browser keeps what has its fingerprint in its address
_COMPRESSED_FROM = 1024  # bytes below which deflating an answer costs more than it saves

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Vary": "Cookie, Accept-Encoding",
}
# An image opened by itself is a document too: it may show itself and nothing else.
IMAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

CONTROLS = ("start", "end", "last", "tz", "interval", "metric", "breakdown", "cumulative", "chart", "scale", "scope")
"""Parameters of `/usage` that a control holds; a form carries all others along as they are."""

_STATUS_OF: tuple[tuple[type[AggregatorError], int, str], ...] = (
    (TokenError, 401, "Please sign in"),
    (ForbiddenError, 403, "Not for this account"),
    (NotFoundError, 404, "Not found"),
    (BusyError, 503, "Busy"),
    (StoreError, 503, "The store cannot answer now"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a page: who asks, for which view, and when."""

    request: Request
    principal: Principal
    view: View
    now_us: int


class Pages:
    """The pages over their collaborators; `now` in Unix seconds."""

    def __init__(self, reader: Reader, principal: PrincipalOf, drawing: Drawing, now: Callable[[], float]) -> None:
        self._reader = reader
        self._principal = principal
        self._drawing = drawing
        self._now = now
        self._assets = Assets(drawing)
        self._templates = _templates(self._assets)

    def usage(self, request: Request) -> Response:
        """The Usage page."""
        return self._answered(request, "/usage", lambda asked: self._canonical(asked) or self._usage(asked))

    def usage_image(self, request: Request) -> Response:
        """The chart of a view as `chart.svg` or `chart.png`, for mails and documents."""
        format = request.url.path.rpartition(".")[2]
        return self._answered(request, "/usage", lambda asked: self._image(asked, format))

    def static(self, name: str, request: Request) -> Response:
        """A file of the page's own, or Vega; kept by browsers when its address carries its fingerprint."""
        asset = self._assets.get(name)
        if asset is None:
            return Response("not found", 404, media_type="text/plain")
        return _static(asset, request)

    def _answered(self, request: Request, path: str, answer: Callable[["Asked"], Response]) -> Response:
        """An error of ours becomes a page that says what to do; a malformed question for an image, a line of text."""
        try:
            view = View(path, tuple(request.query_params.multi_items()))
            return answer(Asked(request, self._principal(request), view, int(self._now() * 1e6)))
        except QueryError as error:
            return Response(str(error), 422, HEADERS, "text/plain; charset=utf-8")
        except AggregatorError as error:
            return self._failed(request, error)

    def _canonical(self, asked: Asked) -> Response | None:
        """A form's parameters become an address to keep, and an interval that fits the range that was chosen."""
        today = _local(asked).date()
        items = canonical(asked.view.items, today)
        if items is None:
            return None
        view = View(asked.view.path, items)
        if not controls.is_cumulable(view.value("metric", "credits")):
            view = view.changed({"cumulative": None})
        try:
            # By the range alone: a start that an interval has moved back to its bucket's would make it longer.
            whole = usage_query(view.changed({"interval": "total"}).question, asked.principal, asked.now_us)
        except QueryError:
            return RedirectResponse(view.href(), 303)
        interval = controls.fitting(view.value("interval", "day"), whole)
        return RedirectResponse(view.replaced("interval", interval).href(), 303)

    def _usage(self, asked: Asked) -> Response:
        try:
            query = usage_query(asked.view.question, asked.principal, asked.now_us)
        except QueryError as error:
            return self._html(asked.request, "usage.html", _refused(asked, error), 422)
        answer = self._reader.usage(query)
        totals = self._reader.usage(replace(query, breakdown=())) if query.breakdown else answer
        context = _usage_controls(asked, query) | {
            "panels": [usage_page.panel(asked.view, answer, totals, metric) for metric in query.metrics],
            "query": query,
            "breakdown": usage_page.breakdown_name(query),
            "complete_until": moment_name(answer.complete_until_us, query.zone),
            "empty": self._emptiness(asked, answer),
        }
        return self._html(asked.request, "usage.html", context)

    def _emptiness(self, asked: Asked, answer: UsageAnswer) -> str:
        """Why there is nothing to see: `range`, or `installation` when no call was ever recorded."""
        query = answer.query
        calls = replace(query, metrics=("requests",), breakdown=(), interval="total", cumulative=False)
        if not usage_page.is_empty(answer) or not usage_page.is_empty(self._reader.usage(calls)):
            return ""
        ever = replace(calls, start_us=0, end_us=asked.now_us, filters=())
        return "installation" if usage_page.is_empty(self._reader.usage(ever)) else "range"

    def _image(self, asked: Asked, format: str) -> Response:
        query = usage_query(asked.view.question, asked.principal, asked.now_us)
        answer = self._reader.usage(query)
        metric, theme = query.metrics[0], "dark" if asked.view.value("theme") == "dark" else "light"
        if not charts.is_drawable(answer):
            return Response("too many buckets to draw: choose a coarser interval", 422, media_type="text/plain")
        shape = charts.shape_of(asked.view.value("chart"), metric)
        spec = charts.usage_image(answer, metric, shape, asked.view.value("scale") == "log")
        config = charts.theme("dark" if theme == "dark" else "light", charts.series_slots(answer))
        body = self._drawing.png(spec, config) if format == "png" else self._drawing.svg(spec, config)
        media_type = "image/png" if format == "png" else "image/svg+xml"
        return _sent(asked.request, body, media_type, 200, {"Content-Security-Policy": IMAGE_POLICY})

    def _failed(self, request: Request, error: AggregatorError) -> Response:
        status, title = 500, "Something broke"
        for kind, its_status, its_title in _STATUS_OF:
            if isinstance(error, kind):
                status, title = its_status, its_title
        if status >= 500:
            logger.error("the page failed: %s", error)
        message = "Try again in a moment; the log says more." if status >= 500 else str(error)
        return self._html(request, "error.html", {"title": title, "message": message}, status)

    def _html(self, request: Request, template: str, context: dict[str, Any], status: int = 200) -> Response:
        body = self._templates.get_template(template).render(context)
        return _sent(request, body.encode(), "text/html; charset=utf-8", status, HEADERS)


def router(
    reader: Reader, principal: PrincipalOf, drawing: Drawing | None = None, now: Callable[[], float] = time.time
) -> APIRouter:
    """The pages, and what they load; none of it is part of the API's description."""
    pages = Pages(reader, principal, drawing or Drawing(), now)
    routes = APIRouter(include_in_schema=False, default_response_class=Response)
    for path, endpoint in (
        ("/", pages.usage),
        ("/usage", pages.usage),
        ("/usage/chart.svg", pages.usage_image),
        ("/usage/chart.png", pages.usage_image),
        ("/static/{name}", pages.static),
    ):
        routes.get(path, name=path, response_model=None)(endpoint)
    return routes


def _local(asked: Asked) -> datetime:
    return from_us(asked.now_us, zone_of(asked.view.value("tz", "UTC")) or UTC)


def _usage_controls(asked: Asked, query: UsageQuery | None) -> dict[str, Any]:
    """What the toolbar offers; without a query (the question made no sense) what was asked is all that is known."""
    view, principal = asked.view, asked.principal
    metric = query.metrics[0] if query else view.value("metric", "credits")
    scope = view.value("scope", "account")
    shape = charts.shape_of(view.value("chart"), metric) if query else ""
    first, last = controls.dates(query) if query else (view.value("start"), view.value("end"))
    before, after = controls.steps(view, query, asked.now_us) if query else (None, None)
    return {
        "view": view,
        "principal": principal,
        "problems": {},
        "ranges": controls.ranges(view, query, _local(asked)),
        "kept": controls.kept(view, shape),
        "first": first,
        "last": last,
        "before": before,
        "after": after,
        "intervals": controls.intervals(query, view.value("interval", "day")),
        "metrics": controls.metrics(metric, ()),
        "breakdowns": controls.breakdowns(view.value("breakdown"), principal, scope),
        "cumulable": controls.is_cumulable(metric),
        "shape": shape,
        "filters": controls.filters(view, principal),
        "carried": controls.carried(view, CONTROLS),
        "csv": view.answer_href("/v1/usage.csv"),
        "json": view.answer_href("/v1/usage"),
        "themes": THEMES,
    }


def _refused(asked: Asked, error: QueryError) -> dict[str, Any]:
    problems: dict[str, str] = {}
    for problem in error.problems:
        problems.setdefault(problem.parameter, problem.message)
    others = [f"{name}: {message}" for name, message in problems.items() if name not in CONTROLS]
    return _usage_controls(asked, None) | {"panels": [], "problems": problems, "others": others, "query": None}


def _templates(assets: Assets) -> jinja2.Environment:
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("aggregator"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.globals["asset"] = assets.url
    templates.filters["data"] = _data
    return templates


def _data(value: object) -> Markup:
    """JSON for a data block inside HTML: no character of it can end the block or begin markup."""
    text = json.dumps(value, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  # escaped right above


def _sent(request: Request, body: bytes, media_type: str, status: int, headers: dict[str, str]) -> Response:
    headers = HEADERS | headers
    if len(body) >= _COMPRESSED_FROM and _takes_gzip(request) and media_type != "image/png":
        body, headers = gzip.compress(body, 5), headers | {"Content-Encoding": "gzip"}
    return Response(body, status, headers, media_type)


def _static(asset: Asset, request: Request) -> Response:
    fresh = request.query_params.get("v") == asset.fingerprint
    headers = HEADERS | {
        "Cache-Control": f"public, max-age={YEAR_SECONDS}, immutable" if fresh else "no-cache",
        "Vary": "Accept-Encoding",
    }
    if _takes_gzip(request):
        return Response(asset.deflated, 200, headers | {"Content-Encoding": "gzip"}, asset.media_type)
    return Response(gzip.decompress(asset.deflated), 200, headers, asset.media_type)


def _takes_gzip(request: Request) -> bool:
    return "gzip" in request.headers.get("accept-encoding", "")
