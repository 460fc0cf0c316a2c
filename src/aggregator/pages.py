"""The pages: server-rendered, the address is the view. Here questions are asked and answers are sent.

What a page shows is made by pure modules (`usage_page`, `analytics_page`, `log_page` and what they stand on); what it
looks like is in the templates. A question that makes no sense gets its page all the same, with the message at the
control that is wrong. The parts of a page are asked for at once, each in a thread of its own.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from aggregator import analytics_page, charts, controls, log_page, tile, usage_page
from aggregator.api import COOKIE, PrincipalOf
from aggregator.assets import Assets
from aggregator.buckets import from_us
from aggregator.colors import Theme
from aggregator.dimensions import is_dimension
from aggregator.drawing import Drawing
from aggregator.errors import AggregatorError, BusyError, NotFoundError, QueryError, StoreError
from aggregator.figure import Closer, Figure, Row, closer_in_log, lines_figure, usage_figure
from aggregator.labels import Labels
from aggregator.limits import Limit, Limits
from aggregator.look import Look
from aggregator.parameters import requests_query, usage_query, zone_of
from aggregator.query import UsageAnswer, UsageQuery
from aggregator.reader import Reader
from aggregator.rendering import Rendering
from aggregator.tokens import ForbiddenError, Principal, TokenError, TooManyFailuresError
from aggregator.view import LOG_ONLY, RANGE_ONLY, USAGE_ONLY, Items, View, canonical
from aggregator.wording import bucket_end_us, moment_name

logger = logging.getLogger(__name__)

TABS = {"/usage": "Usage", "/analytics": "Analytics", "/requests": "Request Log"}
QUESTIONS = 3  # of all pages at once: the store answers four, and the consumer and the API need theirs
_SEARCHED = 1000  # values that a picker searches
_QUANTITIES_SEEN = 100  # newest calls that are looked through for what they meter
_LOG_ROWS = 50  # of one page of the log, where the address does not say another number
MAX_LOG_ROWS = 500

CONTROLS = {
    "/usage": (*RANGE_ONLY, "tz", "scope", "interval", "metric", "breakdown", "cumulative", "chart", "scale", "past"),
    "/analytics": (*RANGE_ONLY, "tz", "scope", "interval", "kind"),
    "/requests": (*RANGE_ONLY, "tz", "scope", "q", "min_latency", "cursor"),
}
"""Parameters that a control of the page holds; its form carries all others along as they are."""

_STATUS_OF: tuple[tuple[type[AggregatorError], int, str], ...] = (
    (TokenError, 401, "Please sign in"),
    (ForbiddenError, 403, "Not for this account"),
    (NotFoundError, 404, "Not found"),
    (TooManyFailuresError, 429, "Too many attempts"),
    (BusyError, 503, "Busy"),
    (StoreError, 503, "The store cannot answer now"),
)

Context = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a page: who asks, for which view, and when."""

    request: Request
    principal: Principal
    view: View
    now_us: int

    @property
    def zone(self) -> tzinfo:
        return zone_of(self.view.value("tz", "UTC")) or UTC

    @property
    def today(self) -> datetime:
        return from_us(self.now_us, self.zone)

    @property
    def items(self) -> Items:
        """Range, zone, interval, whose calls, and filters: what every part of a page shares."""
        names = [name for name in USAGE_ONLY if name != "interval"]
        return self.view.asked(*names, *LOG_ONLY)

    def query(self, items: Items) -> UsageQuery:
        return usage_query(items, self.principal, self.now_us)


Answer = Callable[[Asked], Response]


class Pages:
    """The pages over their collaborators; `now` in Unix seconds."""

    def __init__(
        self,
        reader: Reader,
        principal: PrincipalOf,
        drawing: Drawing,
        look: Look,
        labels: Labels | None,
        limits: Limits | None,
        now: Callable[[], float],
    ) -> None:
        self._reader = reader
        self._principal = principal
        self._drawing = drawing
        self._look = look
        self._labels = labels
        self._limits = limits
        self._now = now
        self._rendering = Rendering(Assets(drawing, look), look)
        self._threads = ThreadPoolExecutor(QUESTIONS, thread_name_prefix="usage-meter-page")

    # ---- What is served ---------------------------------------------------------------------------------------------

    def usage(self, request: Request) -> Response:
        """The Usage page."""
        return self._answered(request, "/usage", lambda asked: self._canonical(asked) or self._usage(asked))

    def usage_image(self, request: Request) -> Response:
        """The chart of a view as `chart.svg` or `chart.png`, for mails and documents."""
        return self._answered(request, "/usage", self._usage_image)

    def analytics(self, request: Request) -> Response:
        """The Analytics page."""
        return self._answered(request, "/analytics", lambda asked: self._canonical(asked) or self._analytics(asked))

    def analytics_image(self, request: Request) -> Response:
        """A chart of the Analytics page; `panel` says which."""
        return self._answered(request, "/analytics", self._analytics_image)

    def log(self, request: Request) -> Response:
        """The Request Log."""
        return self._answered(request, "/requests", lambda asked: self._canonical(asked) or self._log(asked))

    def call(self, id: str, request: Request) -> Response:
        """One call's own page."""
        return self._answered(request, "/requests", lambda asked: self._call(asked, id))

    def picker(self, page: str, request: Request) -> Response:
        """The values of one filter by themselves, for a page that is open already."""
        path = f"/{page}"
        if path not in TABS:
            return self._rendering.text(request, "not found", 404)
        return self._answered(request, path, self._picker_alone)

    def static(self, name: str, request: Request) -> Response:
        return self._rendering.static(request, name)

    # ---- Any page ---------------------------------------------------------------------------------------------------

    def _answered(self, request: Request, path: str, answer: Answer) -> Response:
        """An error of ours becomes a page that says what to do; a malformed question for an image, a line of text."""
        try:
            view = View(path, tuple(request.query_params.multi_items()))
            return answer(Asked(request, self._principal(request), view, int(self._now() * 1e6)))
        except QueryError as error:
            return self._rendering.text(request, str(error), 422)
        except AggregatorError as error:
            return self._failed(request, error)

    def _failed(self, request: Request, error: AggregatorError) -> Response:
        status, title = 500, "Something broke"
        for kind, its_status, its_title in _STATUS_OF:
            if isinstance(error, kind):
                status, title = its_status, its_title
        if status >= 500:
            logger.error("the page failed: %s", error)
        message = "Try again in a moment; the log says more." if status >= 500 else str(error)
        context = {"title": title, "message": message, "tabs": [], "who": "", "compact": False}
        return self._rendering.html(request, "error.html", context, status)

    def _canonical(self, asked: Asked) -> Response | None:
        """A form's parameters become an address to keep, and an interval that fits the range that was chosen."""
        items = canonical(asked.view.items, asked.today.date())
        if items is None:
            return None
        view = View(asked.view.path, items)
        if not controls.is_cumulable(view.value("metric", "credits")):
            view = view.changed({"cumulative": None})
        try:
            # By the range alone: a start that an interval has moved back to its bucket's would make it longer.
            whole = asked.query((*replace(asked, view=view.changed({"interval": None})).items, ("interval", "total")))
        except QueryError:
            return RedirectResponse(view.href(), 303)
        interval = controls.fitting(view.value("interval", "day"), whole)
        return RedirectResponse(view.replaced("interval", interval).href(), 303)

    def _at_once(
        self, *questions: UsageQuery, wanted: Sequence[UsageQuery | None] = ()
    ) -> tuple[list[UsageAnswer], list[UsageAnswer | None]]:
        """The answers in the order of the questions; then those of what is wanted only where it makes sense."""
        asked = [self._threads.submit(self._reader.usage, one) for one in questions]
        also = [self._threads.submit(self._reader.usage, one) if one else None for one in wanted]
        return [one.result() for one in asked], [one.result() if one else None for one in also]

    def _common(self, asked: Asked, query: UsageQuery | None, problems: Mapping[str, str]) -> Context:
        """What every page has: its frame, the toolbar's range, and its filters.

        Without a query (the question made no sense) what was asked is all that is known.
        """
        view, principal = asked.view, asked.principal
        scope = view.value("scope", "account")
        first, last = controls.dates(query) if query else (view.value("start"), view.value("end"))
        before, after = controls.steps(view, query, asked.now_us) if query else (None, None)
        held = CONTROLS[view.path]
        return {
            "view": view,
            "query": query,
            "tabs": [(name, view.elsewhere(path), path == view.path) for path, name in TABS.items()],
            "who": _who(principal),
            "compact": view.value("compact") == "true",
            "problems": problems,
            "others": [f"{name}: {message}" for name, message in problems.items() if name not in held],
            "ranges": controls.ranges(view, query, asked.today),
            "first": first,
            "last": last,
            "before": before,
            "after": after,
            "intervals": controls.intervals(query, view.value("interval", "day")),
            "scope": scope if principal.role == "admin" else "",
            "filters": controls.filters(view, principal, self._names(asked)),
            "pickable": controls.pickable(view, principal, scope),
            "picker": self._picker(asked) if query and view.value("pick") else None,
            "carried": controls.carried(view, (*held, "pick", "find")),
            "kept": controls.kept(view, ""),
            "shape": "",
        }

    def _names(self, asked: Asked) -> Mapping[str, Mapping[str, str]]:
        if self._labels is None:
            return {}
        names = {name.removeprefix("not.") for name, _ in asked.view.items}
        wanted = [name for name in names if is_dimension(name, asked.principal.is_operator)]
        return self._labels.of(asked.principal.workspace or None, wanted)

    def _refused(self, asked: Asked, error: QueryError, template: str, context: Context) -> Response:
        problems: dict[str, str] = {}
        for problem in error.problems:
            problems.setdefault(problem.parameter, problem.message)
        found = self._common(asked, None, problems) | {"empty": "", "complete_until": ""} | context
        return self._rendering.html(asked.request, template, found, 422)

    def _emptiness(self, asked: Asked, answer: UsageAnswer) -> str:
        """Why there is nothing to see: `range`, or `installation` when no call was ever recorded."""
        query = answer.query
        calls = replace(query, metrics=("requests",), breakdown=(), interval="total", cumulative=False)
        if not usage_page.is_empty(answer) or not usage_page.is_empty(self._reader.usage(calls)):
            return ""
        ever = replace(calls, start_us=0, end_us=asked.now_us, filters=())
        return "installation" if usage_page.is_empty(self._reader.usage(ever)) else "range"

    def _quantities(self, asked: Asked) -> list[str]:
        """What the app meters by itself, as far as the newest calls show it."""
        scope = [item for item in asked.items if item[0] == "scope"]
        query = requests_query([*scope, ("limit", str(_QUANTITIES_SEEN))], asked.principal, asked.now_us)
        return log_page.quantities(self._reader.requests(query).requests)

    def _picker_alone(self, asked: Asked) -> Response:
        if not asked.view.value("pick"):
            raise NotFoundError("no dimension is named to filter by")
        return self._rendering.html(asked.request, "_picker.html", {"picker": self._picker(asked), "view": asked.view})

    def _picker(self, asked: Asked) -> controls.Picker:
        """The values of a filter's dimension, over the view without that filter. Raises NotFoundError."""
        view, dimension, search = asked.view, asked.view.value("pick"), asked.view.value("find")
        if not is_dimension(dimension, asked.principal.is_operator):
            raise NotFoundError(f"there is no dimension '{dimension}' to filter by")
        rest = [item for item in asked.items if item[0] not in (dimension, f"not.{dimension}", "interval")]
        own = [("interval", "total"), ("metric", "credits"), ("metric", "requests"), ("breakdown", dimension)]
        query = asked.query((*rest, *own, ("top", str(_SEARCHED if search else controls.MOST_CHOICES))))
        return controls.picker(view, dimension, self._reader.usage(query), search)

    def _limit(self, asked: Asked) -> Limit | None:
        """The limit that the view is under: the account's own, or the workspace's."""
        principal, view = asked.principal, asked.view
        workspaces = view.values("workspace") if principal.is_operator else [principal.workspace]
        if self._limits is None or len(workspaces) != 1 or controls.filters(view, principal):
            return None
        own = not principal.is_operator and view.value("scope", "account") == "account"
        subject, value = ("user", principal.user) if own else ("workspace", "")
        found = self._limits.of(workspaces[0])
        return next((one for one in found if (one.subject, one.value) == (subject, value)), None)

    # ---- Usage ------------------------------------------------------------------------------------------------------

    def _usage(self, asked: Asked) -> Response:
        view = asked.view
        try:
            query = asked.query(view.asked(*LOG_ONLY))
        except QueryError as error:
            return self._refused(asked, error, "usage.html", self._usage_controls(asked, None))
        past = usage_page.past(view)
        before = usage_page.before(query)
        metric = query.metrics[0]
        (answer, requests), (totals, old, old_total, of_month) = self._at_once(
            query,
            usage_page.requests_query(query, past, asked.now_us),
            wanted=[
                replace(query, breakdown=()) if query.breakdown else None,
                before if before and query.breakdown else None,
                replace(before, breakdown=()) if before else None,
                tile.month_to_date(query, metric, asked.now_us),
            ],
        )
        return self._rendering.html(
            asked.request,
            "usage.html",
            self._common(asked, query, {})
            | self._usage_controls(asked, query)
            | {
                "empty": self._emptiness(asked, answer),
                "complete_until": moment_name(answer.complete_until_us, query.zone),
                "tiles": self._usage_tiles(asked, totals or answer, old_total, of_month),
                "panels": [self._usage_panel(view, answer, totals or answer, old, name) for name in query.metrics],
                **self._requests_panel(asked, requests, past),
            },
        )

    def _usage_controls(self, asked: Asked, query: UsageQuery | None) -> Context:
        view = asked.view
        metric = query.metrics[0] if query else view.value("metric", "credits")
        shape = charts.shape_of(view.value("chart"), metric) if query else ""
        return {
            "metrics": controls.metrics(metric, self._quantities(asked) if query else ()),
            "breakdowns": controls.breakdowns(view.value("breakdown"), asked.principal, view.value("scope", "account")),
            "cumulable": controls.is_cumulable(metric),
            "shape": shape,
            "kept": controls.kept(view, shape),
            "csv": view.answer_href("/v1/usage.csv", *LOG_ONLY),
            "json": view.answer_href("/v1/usage", *LOG_ONLY),
            "tiles": [],
            "panels": [],
        }

    def _usage_tiles(
        self, asked: Asked, totals: UsageAnswer, before: UsageAnswer | None, month: UsageAnswer | None
    ) -> list[tile.Tile]:
        query = totals.query
        metric = query.metrics[0]
        tiles = [tile.of_total(metric, tile.total_of(totals, metric), tile.total_of(before, metric), query)]
        peak = tile.of_peak(totals, metric)
        if peak:
            tiles.append(peak)
        if month:
            limit = self._limit(asked)
            end_us = bucket_end_us(month.query.start_us, "month", query.zone)
            tiles += tile.of_month(month, end_us, _credits(limit))
        return tiles

    @staticmethod
    def _usage_panel(
        view: View, answer: UsageAnswer, totals: UsageAnswer, before: UsageAnswer | None, metric: str
    ) -> Context:
        shape = charts.shape_of(view.value("chart"), metric)
        query = answer.query
        return {
            "figure": usage_figure(view, answer, metric, shape, view.value("scale") == "log", f"usage-{metric}"),
            "image": view.href({"metric": metric}, path="/usage/chart.svg"),
            "table": usage_page.series_table(view, answer, metric, tile.total_of(totals, metric), before)
            if query.breakdown or query.interval == "total"
            else None,
        }

    def _requests_panel(self, asked: Asked, answer: UsageAnswer, past: str) -> Context:
        """ElevenLabs' own pair: requests as bars, and concurrency as two lines under a limit."""
        limit = self._limit(asked)
        closer = closer_in_log(asked.view)
        concurrency = usage_page.only(answer, ("concurrency", "concurrency_average"))
        requests = usage_figure(asked.view, usage_page.only(answer, ("requests",)), "requests", id="requests")
        return {
            "past": past,
            "pasts": [(name, label) for name, (label, *_) in usage_page.PASTS.items()],
            "requests": replace(requests, title="API requests", rows=_linked(requests, answer, closer)),
            "concurrency": lines_figure(
                "concurrency",
                "Concurrent requests",
                concurrency,
                usage_page.CONCURRENCY_SLOTS,
                closer,
                limit.concurrency if limit else None,
            ),
            "requests_image": asked.view.href({"metric": "requests", "breakdown": None}, path="/usage/chart.svg"),
            "concurrency_limit": limit.concurrency if limit else None,
        }

    def _usage_image(self, asked: Asked) -> Response:
        view = asked.view
        query = asked.query(view.asked(*LOG_ONLY))
        answer = self._reader.usage(query)
        metric = query.metrics[0]
        shape = charts.shape_of(view.value("chart"), metric)
        return self._image(asked, usage_figure(view, answer, metric, shape, view.value("scale") == "log"))

    def _image(self, asked: Asked, figure: Figure) -> Response:
        if figure.problem:
            return self._rendering.text(asked.request, figure.problem, 422)
        theme: Theme = "dark" if asked.view.value("theme") == "dark" else "light"
        names = [entry.label for entry in figure.entries]
        spec = charts.image(figure.chart, figure.title, figure.subtitle, names)
        if asked.request.url.path.endswith(".png"):
            return self._rendering.image(asked.request, self._drawing.png(spec, figure.themes[theme]), "image/png")
        return self._rendering.image(asked.request, self._drawing.svg(spec, figure.themes[theme]), "image/svg+xml")

    # ---- Analytics --------------------------------------------------------------------------------------------------

    def _analytics(self, asked: Asked) -> Response:
        view = asked.view
        items = analytics_page.questions(asked.items)
        context: Context = {
            "csv": View("/v1/usage.csv", items["paths"]).href(),
            "json": View("/v1/usage", items["paths"]).href(),
            "kind": view.value("kind", "request"),
        }
        try:
            queries = [asked.query(one) for one in items.values()]
        except QueryError as error:
            return self._refused(asked, error, "analytics.html", context)
        (whole, paths, outcomes), (before,) = self._at_once(*queries, wanted=[usage_page.before(queries[0])])
        figures = analytics_page.figures(view, whole, paths, outcomes)
        return self._rendering.html(
            asked.request,
            "analytics.html",
            self._common(asked, queries[0], {})
            | context
            | {
                "empty": self._emptiness(asked, whole),
                "complete_until": moment_name(whole.complete_until_us, whole.query.zone),
                "tiles": analytics_page.tiles(whole, before),
                "figures": figures,
                "images": {id: view.href({"panel": id}, path="/analytics/chart.svg") for id in figures},
                "table": analytics_page.path_table(view, paths, whole),
            },
        )

    def _analytics_image(self, asked: Asked) -> Response:
        items = analytics_page.questions(asked.items)
        (whole, paths, outcomes), _ = self._at_once(*(asked.query(one) for one in items.values()))
        figures = analytics_page.figures(asked.view, whole, paths, outcomes)
        panel = asked.view.value("panel", "paths")
        if panel not in figures:
            raise NotFoundError(f"there is no panel '{panel}': there are {', '.join(figures)}")
        return self._image(asked, figures[panel])

    # ---- Request Log ------------------------------------------------------------------------------------------------

    def _log(self, asked: Asked) -> Response:
        view = asked.view
        context: Context = {
            "csv": view.answer_href("/v1/requests.csv", *USAGE_ONLY, "cursor", "limit"),
            "json": view.answer_href("/v1/requests", *USAGE_ONLY),
            "rows": [],
            "links": {},
            "tail": log_page.tail_href(view),
        }
        items = view.asked(*USAGE_ONLY)
        if not view.value("limit"):
            items = (*items, ("limit", str(_LOG_ROWS)))
        try:
            query = requests_query(items, asked.principal, asked.now_us)
            shown = asked.query((*view.asked(*USAGE_ONLY, *LOG_ONLY), ("interval", "total")))
        except QueryError as error:
            return self._refused(asked, error, "log.html", context)
        answer = self._reader.requests(replace(query, limit=min(query.limit, MAX_LOG_ROWS)))
        empty = "" if answer.requests else "range"
        return self._rendering.html(
            asked.request,
            "log.html",
            self._common(asked, shown, {})
            | context
            | {
                "empty": empty,
                "complete_until": "",
                "rows": log_page.rows(view, answer.requests, asked.zone),
                "links": log_page.page_links(view, answer.next_cursor),
            },
        )

    def _call(self, asked: Asked, id: str) -> Response:
        audience = asked.principal.widest_audience()
        record = self._reader.request(id, audience)
        tz = asked.view.value("tz")
        trace = self._look.trace_href(record["trace_id"])
        context: Context = {
            "view": asked.view,
            "tabs": [(name, View(path, (("tz", tz),) if tz else ()).href(), path == "/requests")
                     for path, name in TABS.items()],
            "who": _who(asked.principal),
            "compact": asked.view.value("compact") == "true",
            "call": log_page.call(record, asked.zone, tz, trace),
            "around": self._around(asked, record),
        }  # fmt: skip
        return self._rendering.html(asked.request, "call.html", context)

    def _around(self, asked: Asked, record: Mapping[str, Any]) -> list[log_page.LogRow]:
        """The call among those of the same key, the newest first."""
        audience = asked.principal.widest_audience()
        found: list[Sequence[Mapping[str, Any]]] = []
        for later in (True, False):
            query = log_page.neighbours(record, audience, later=later)
            found.append(self._reader.requests(query).requests if query else [])
        after, before = found
        return log_page.rows(asked.view, [*reversed(after), record, *before], asked.zone)


def router(
    reader: Reader,
    principal: PrincipalOf,
    drawing: Drawing | None = None,
    now: Callable[[], float] = time.time,
    *,
    look: Look | None = None,
    labels: Labels | None = None,
    limits: Limits | None = None,
    check: Callable[[str], Principal] | None = None,
) -> APIRouter:
    """The pages, and what they load; none of it is part of the API's description.

    `check` gives the principal of a token, or raises TokenError: with it there is `/login?token=…`, by which a company
    shows the pages to its own customers.
    """
    look = look or Look()
    pages = Pages(reader, principal, drawing or Drawing(), look, labels, limits, now)
    routes = APIRouter(include_in_schema=False, default_response_class=Response)
    endpoints: dict[str, Callable[..., Response]] = {
        "/": pages.usage,
        "/usage": pages.usage,
        "/usage/chart.svg": pages.usage_image,
        "/usage/chart.png": pages.usage_image,
        "/analytics": pages.analytics,
        "/analytics/chart.svg": pages.analytics_image,
        "/analytics/chart.png": pages.analytics_image,
        "/requests": pages.log,
        "/requests/{id}": pages.call,
        "/picker/{page}": pages.picker,
        "/static/{name}": pages.static,
    }
    if check:
        endpoints["/login"] = _login(check, look)
    for path, endpoint in endpoints.items():
        routes.get(path, name=path, response_model=None)(endpoint)
    return routes


def _login(check: Callable[[str], Principal], look: Look) -> Callable[[Request], Response]:
    """Takes a token out of the address into a cookie, and goes on to a page of ours."""

    def login(request: Request, token: str = "", next: str = "/usage") -> Response:
        """Sign in with a token; `next` is the page to go on to."""
        try:
            check(token)
        except TokenError as error:
            return Response(f"{error}\n", 401, {"Cache-Control": "no-store"}, "text/plain; charset=utf-8")
        response = RedirectResponse(
            _own_path(next), 303, {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
        )
        secure = request.url.scheme == "https"
        response.set_cookie(
            COOKIE, token, httponly=True, secure=secure, samesite="none" if secure and look.may_be_framed else "lax"
        )
        return response

    return login


def _own_path(address: str) -> str:
    """The path and query of an address of ours; the Usage page instead of anything that leads elsewhere."""
    parts = urlsplit(address)
    own = address.startswith("/") and not address.startswith(("//", "/\\")) and not (parts.scheme or parts.netloc)
    return address if own and address.isprintable() else "/usage"


def _who(principal: Principal) -> str:
    if principal.is_operator:
        return "All workspaces"
    return " · ".join(part for part in (principal.workspace, principal.user) if part)


def _credits(limit: Limit | None) -> Decimal | None:
    return limit.monthly_credits if limit else None


def _linked(figure: Figure, answer: UsageAnswer, closer: Closer) -> list[Row]:
    """The rows of a figure, each with another link."""
    pairs = zip(figure.rows, answer.bounds, strict=False)  # no rows where there is too much to draw
    return [replace(row, href=closer(answer.query, bound)) for row, bound in pairs]
