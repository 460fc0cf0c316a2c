"""What all pages have in common: the toolbar, the filters and their picker, and what to say of nothing to see.

The parts of a page are asked for at once, each in a thread of its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import tzinfo
from typing import Any

from fastapi import Response

from aggregator.dimensions import is_dimension
from aggregator.errors import NotFoundError, QueryError
from aggregator.labels import Labels
from aggregator.limits import Limit, Limits
from aggregator.page import controls, usage_page
from aggregator.page.asked import Asked
from aggregator.page.rendering import Rendering
from aggregator.page.view import RANGE_ONLY
from aggregator.page.wording import moment_name
from aggregator.query import UsageAnswer, UsageQuery
from aggregator.reader import Reader
from aggregator.request_log import RequestsQuery
from aggregator.tokens import Principal

TABS = {"/usage": "Usage", "/analytics": "Analytics", "/requests": "Request Log"}
QUESTIONS = 3  # of all pages at once: the store answers four, and the consumer and the API need theirs
_SEARCHED = 1000  # values that a picker searches

CONTROLS = {
    "/usage": (*RANGE_ONLY, "tz", "scope", "interval", "metric", "breakdown", "cumulative", "chart", "scale", "past"),
    "/analytics": (*RANGE_ONLY, "tz", "scope", "interval", "kind"),
    "/requests": (*RANGE_ONLY, "tz", "scope", "q", "min_latency", "cursor"),
}
"""Parameters that a control of the page holds; its form carries all others along as they are."""

Context = dict[str, Any]


class Frame:
    """Over the collaborators of all pages."""

    def __init__(self, reader: Reader, rendering: Rendering, labels: Labels | None, limits: Limits | None) -> None:
        self.reader = reader
        self.rendering = rendering
        self._labels = labels
        self._limits = limits
        self._threads = ThreadPoolExecutor(QUESTIONS, thread_name_prefix="usage-meter-page")

    def page(self, asked: Asked, template: str, query: UsageQuery, context: Context) -> Response:
        return self.rendering.html(asked.request, template, self._common(asked, query, {}) | context)

    def refused(self, asked: Asked, error: QueryError, template: str, context: Context) -> Response:
        """The page without its numbers, with each message at the control that is wrong."""
        problems: dict[str, str] = {}
        for problem in error.problems:
            problems.setdefault(problem.parameter, problem.message)
        found = self._common(asked, None, problems) | {"empty": "", "complete_until": ""} | context
        return self.rendering.html(asked.request, template, found, 422)

    def at_once(
        self, *questions: UsageQuery, wanted: Sequence[UsageQuery | None] = ()
    ) -> tuple[list[UsageAnswer], list[UsageAnswer | None]]:
        """The answers in the order of the questions; then those of what is wanted only where it makes sense."""
        asked = [self._threads.submit(self.reader.usage, one) for one in questions]
        also = [self._threads.submit(self.reader.usage, one) if one else None for one in wanted]
        return [one.result() for one in asked], [one.result() if one else None for one in also]

    def head(self, asked: Asked, tab: str) -> Context:
        """What the top of every page shows; the links to the tabs take along what fits there."""
        view = asked.view
        return {
            "view": view,
            "tabs": [(name, view.elsewhere(path), path == tab) for path, name in TABS.items()],
            "who": _who(asked.principal),
            "compact": view.value("compact") == "true",
            "theme": view.value("theme"),
        }

    def _common(self, asked: Asked, query: UsageQuery | None, problems: Mapping[str, str]) -> Context:
        """Every tab's frame, the toolbar's range, and the filters.

        Without a query (the question made no sense) what was asked is all that is known.
        """
        view, principal = asked.view, asked.principal
        first, last = controls.dates(query) if query else (view.value("start"), view.value("end"))
        before, after = controls.steps(view, query, asked.now_us) if query else (None, None)
        held = CONTROLS[view.path]
        filtered = {name.removeprefix("not.") for name in controls.filtered_by(view, principal)}
        return self.head(asked, view.path) | {
            "query": query,
            "problems": problems,
            "others": [f"{name}: {message}" for name, message in problems.items() if name not in held],
            "ranges": controls.ranges(view, query, asked.today),
            "first": first,
            "last": last,
            "before": before,
            "after": after,
            "intervals": controls.intervals(query, view.value("interval", "day")),
            "scope": asked.scope if principal.role == "admin" else "",
            "filters": controls.filters(view, principal, self.names(asked, filtered)),
            "pickable": controls.pickable(view, principal, asked.scope),
            "picker": self.picker(asked) if query and view.value("pick") else None,
            "carried": controls.carried(view, (*held, "pick", "find")),
            "kept": controls.kept(view, ""),
            "shape": "",
        }

    def names(self, asked: Asked, dimensions: Iterable[str]) -> controls.Names:
        """The display names of these dimensions' values."""
        return self._labels.of(asked.principal.workspace or None, dimensions) if self._labels else {}

    def freshness(self, complete_until_us: int, zone: tzinfo) -> str:
        """Up to when nothing is missing any more."""
        return moment_name(complete_until_us, zone)

    def emptiness(self, asked: Asked, answer: UsageAnswer) -> str:
        """Why there is nothing to see: `range`, or `installation` when no call was ever recorded."""
        calls = replace(answer.query, metrics=("requests",), breakdown=(), interval="total", cumulative=False)
        if not usage_page.is_empty(answer) or not usage_page.is_empty(self.reader.usage(calls)):
            return ""
        return self.nothing(asked, calls)

    def nothing(self, asked: Asked, query: UsageQuery) -> str:
        """Why a query without an answer has none."""
        ever = RequestsQuery(0, asked.now_us, audience=query.audience, limit=1)
        return "range" if self.reader.requests(ever).requests else "installation"

    def picker(self, asked: Asked) -> controls.Picker:
        """The values of a filter's dimension, over the view without that filter. Raises NotFoundError."""
        view, dimension, search = asked.view, asked.view.value("pick"), asked.view.value("find")
        if not is_dimension(dimension, asked.principal.is_operator):
            raise NotFoundError(f"there is no dimension '{dimension}' to filter by")
        rest = [item for item in asked.items if item[0] not in (dimension, f"not.{dimension}", "interval")]
        own = [("interval", "total"), ("metric", "credits"), ("metric", "requests"), ("breakdown", dimension)]
        query = asked.query((*rest, *own, ("top", str(_SEARCHED if search else controls.MOST_CHOICES))))
        return controls.picker(view, dimension, self.reader.usage(query), search)

    def limit(self, asked: Asked) -> Limit | None:
        """The limit that the view is under: the account's own, or the workspace's. None where a filter is set."""
        principal, view = asked.principal, asked.view
        workspaces = view.values("workspace") if principal.is_operator else [principal.workspace]
        if self._limits is None or len(workspaces) != 1:
            return None
        if controls.filtered_by(view, principal) - {"workspace"}:
            return None
        own = not principal.is_operator and asked.scope == "account"
        subject, value = ("user", principal.user) if own else ("workspace", "")
        found = self._limits.of(workspaces[0])
        return next((one for one in found if (one.subject, one.value) == (subject, value)), None)


def _who(principal: Principal) -> str:
    if principal.is_operator:
        return "All workspaces"
    return " · ".join(part for part in (principal.workspace, principal.user) if part)
