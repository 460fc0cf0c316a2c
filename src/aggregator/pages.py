"""The pages: server-rendered, the address is the view. Here requests come in, and errors become pages.

What a page shows is asked by its tab (`usage_tab`, `analytics_tab`, `log_tab`), made by pure modules (`usage_page`,
`analytics_page`, `log_page` and what they stand on), and looks as the templates say. A question that makes no sense
gets its page all the same, with the message at the control that is wrong.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import unquote

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from aggregator.api import PrincipalOf
from aggregator.errors import AggregatorError, BusyError, NotFoundError, QueryError, StoreError, TooLargeError
from aggregator.labels import Labels
from aggregator.limits import Limits
from aggregator.page import analytics_tab, controls, log_tab, usage_tab
from aggregator.page.asked import Asked
from aggregator.page.assets import Assets
from aggregator.page.drawing import Drawing
from aggregator.page.frame import TABS, Frame
from aggregator.page.images import Images
from aggregator.page.login import FIRST_PAGE, Login
from aggregator.page.look import Look
from aggregator.page.rendering import Rendering
from aggregator.page.view import View, canonical
from aggregator.parameters import zone_of
from aggregator.reader import Reader
from aggregator.tokens import Failures, ForbiddenError, TokenError, Tokens, TooManyFailuresError

logger = logging.getLogger(__name__)

_STATUS_OF: tuple[tuple[type[AggregatorError], int, str], ...] = (
    (QueryError, 422, "This view cannot be shown"),
    (TooLargeError, 422, "This view cannot be shown"),
    (TokenError, 401, "Please sign in"),
    (ForbiddenError, 403, "Not for this account"),
    (NotFoundError, 404, "Not found"),
    (TooManyFailuresError, 429, "Too many attempts"),
    (StoreError, 503, "The store cannot answer now"),
    (BusyError, 503, "Busy"),
)

ZONE_COOKIE = "usage_meter_zone"
"""Set by the page's script (`early.js`)."""

Answer = Callable[[Asked], Response]


class Pages:
    """The pages over their collaborators; `now` in Unix seconds."""

    def __init__(
        self,
        principal: PrincipalOf,
        rendering: Rendering,
        frame: Frame,
        images: Images,
        login: Login,
        look: Look,
        now: Callable[[], float],
    ) -> None:
        self._principal = principal
        self._rendering = rendering
        self._frame = frame
        self._login = login
        self._now = now
        self._usage = usage_tab.UsageTab(frame, images)
        self._analytics = analytics_tab.AnalyticsTab(frame, images)
        self._log = log_tab.LogTab(frame, look)

    # ---- What is served ---------------------------------------------------------------------------------------------

    def usage(self, request: Request) -> Response:
        """The Usage page."""
        return self._page(request, usage_tab.PATH, lambda asked: _better(asked) or self._usage.page(asked))

    def usage_image(self, request: Request) -> Response:
        """The chart of a view as `chart.svg` or `chart.png`, for mails and documents; `panel` says another one."""
        return self._part(request, usage_tab.PATH, self._usage.image)

    def analytics(self, request: Request) -> Response:
        """The Analytics page."""
        return self._page(request, analytics_tab.PATH, lambda asked: _better(asked) or self._analytics.page(asked))

    def analytics_image(self, request: Request) -> Response:
        """A chart of the Analytics page; `panel` says which."""
        return self._part(request, analytics_tab.PATH, self._analytics.image)

    def log(self, request: Request) -> Response:
        """The Request Log."""
        return self._page(request, log_tab.PATH, lambda asked: _better(asked) or self._log.page(asked))

    def call(self, id: str, request: Request) -> Response:
        """One call's own page."""
        return self._page(request, log_tab.PATH, lambda asked: self._log.call(asked, id))

    def picker(self, page: str, request: Request) -> Response:
        """The values of one filter by themselves, for a page that is open already."""
        path = f"/{page}"
        if path not in TABS:
            return self._rendering.text(request, "not found", 404)
        return self._part(request, path, self._picker)

    def login(self, request: Request, token: str = "", next: str = FIRST_PAGE) -> Response:
        """Sign in with a token; `next` is the page to go on to."""
        try:
            return self._login.answer(request, token, next)
        except AggregatorError as error:
            return self._failed(request, error)

    def static(self, name: str, request: Request) -> Response:
        return self._rendering.static(request, name)

    # ---- Any of them ------------------------------------------------------------------------------------------------

    def _page(self, request: Request, path: str, answer: Answer) -> Response:
        """An error of ours becomes a page that says what to do."""
        try:
            return answer(self._asked(request, path))
        except AggregatorError as error:
            return self._failed(request, error)

    def _part(self, request: Request, path: str, answer: Answer) -> Response:
        """What is not a page by itself says in a line of text what went wrong."""
        try:
            return answer(self._asked(request, path))
        except AggregatorError as error:
            status, title = _status(error)
            return self._rendering.text(request, f"{title if status >= 500 else error}\n", status)

    def _asked(self, request: Request, path: str) -> Asked:
        view = View(path, tuple(request.query_params.multi_items()))
        return Asked(request, self._principal(request), view, int(self._now() * 1e6))

    def _failed(self, request: Request, error: AggregatorError) -> Response:
        status, title = _status(error)
        message = "Try again in a moment; the log says more." if status >= 500 else str(error)
        context = {"title": title, "message": message, "tabs": [], "who": "", "compact": False, "theme": ""}
        return self._rendering.html(request, "error.html", context, status)

    def _picker(self, asked: Asked) -> Response:
        if not asked.view.value("pick"):
            raise NotFoundError("no dimension is named to filter by")
        context = {"picker": self._frame.picker(asked), "view": asked.view}
        return self._rendering.html(asked.request, "_picker.html", context)


def _status(error: AggregatorError) -> tuple[int, str]:
    """The status and title of an error; what is not the asker's fault is logged, since the page does not tell it."""
    status, title = 500, "Something broke"
    for kind, its_status, its_title in _STATUS_OF:
        if isinstance(error, kind):
            status, title = its_status, its_title
    if status >= 500:
        logger.error("the page failed: %s", error)
    return status, title


def _better(asked: Asked) -> Response | None:
    """On to an address that says what this one leaves open; None where it says everything."""
    return _canonical(asked) or _zoned(asked)


def _zoned(asked: Asked) -> Response | None:
    """In the browser's own zone, as far as it has told us, unless the address names another."""
    zone = unquote(asked.request.cookies.get(ZONE_COOKIE, ""))
    if asked.view.value("tz") or zone == "UTC" or not zone_of(zone):
        return None
    return RedirectResponse(asked.view.href({"tz": zone}), 303, {"Cache-Control": "no-store", "Vary": "Cookie"})


def _canonical(asked: Asked) -> Response | None:
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


def router(
    reader: Reader,
    principal: PrincipalOf,
    drawing: Drawing | None = None,
    now: Callable[[], float] = time.time,
    *,
    tokens: Tokens | None = None,
    failures: Failures | None = None,
    look: Look | None = None,
    labels: Labels | None = None,
    limits: Limits | None = None,
) -> APIRouter:
    """The pages, and what they load; none of it is part of the API's description.

    `tokens` are those that `/login` takes, and `failures` counts those that it refuses.
    """
    look, drawing = look or Look(), drawing or Drawing()
    rendering = Rendering(Assets(drawing, look), look)
    frame, images = Frame(reader, rendering, labels, limits), Images(drawing, rendering)
    login = Login(tokens or Tokens(""), failures or Failures(), look)
    pages = Pages(principal, rendering, frame, images, login, look, now)
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
        "/login": pages.login,
    }
    for path, endpoint in endpoints.items():
        routes.get(path, name=path, response_model=None)(endpoint)
    return routes
