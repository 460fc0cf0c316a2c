"""The Usage page: asks what it shows. What that looks like as data is in `usage_page`, as HTML in `usage.html`."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from fastapi import Response

from aggregator import charts
from aggregator.errors import NotFoundError, QueryError
from aggregator.limits import Limit
from aggregator.page import controls, tile, usage_page
from aggregator.page.asked import Asked
from aggregator.page.figure import Figure, closer_in_log, lines_figure, linked, usage_figure
from aggregator.page.frame import Context, Frame
from aggregator.page.images import Images
from aggregator.page.quantities import Quantities
from aggregator.page.view import LOG_ONLY, View
from aggregator.page.wording import bucket_end_us
from aggregator.query import UsageAnswer, UsageQuery

PATH = "/usage"
_IMAGE = "/usage/chart.svg"


class UsageTab:
    def __init__(self, frame: Frame, images: Images) -> None:
        self._frame = frame
        self._images = images
        self._quantities = Quantities(frame.reader)

    def page(self, asked: Asked) -> Response:
        view = asked.view
        try:
            query = asked.query(view.asked(*LOG_ONLY))
        except QueryError as error:
            return self._frame.refused(asked, error, "usage.html", self._controls(asked, None))
        past = usage_page.past(view)
        before = usage_page.before(query)
        metric = query.metrics[0]
        adds_up = usage_page.adds_up(query)
        month = tile.month_to_date(query, metric, asked.now_us)
        held = usage_page.holds(query, month)
        (answer, requests), (totals, old, old_total, of_month) = self._frame.at_once(
            query,
            usage_page.requests_query(query, past, asked.now_us),
            wanted=[
                None if adds_up else replace(query, breakdown=()),
                before,
                None if adds_up or not before else replace(before, breakdown=()),
                None if held else month,
            ],
        )
        totals = totals or usage_page.added_up(answer)
        old_total = old_total or (usage_page.added_up(old) if old else None)
        of_month = usage_page.last_part(totals, month) if held and month else of_month
        limit = self._frame.limit(asked)
        context = self._controls(asked, query) | {
            "empty": self._frame.emptiness(asked, answer),
            "complete_until": self._frame.freshness(answer.complete_until_us, asked.zone),
            "tiles": _tiles(totals, old_total, of_month, limit),
            "panels": [_panel(view, answer, totals, old, name) for name in query.metrics],
            "past": past,
            "pasts": [(name, label) for name, (label, *_) in usage_page.PASTS.items()],
            "figures": _requests_figures(view, requests, limit),
            "images": {panel: view.image_hrefs(_IMAGE, {"panel": panel}) for panel in ("requests", "concurrency")},
            "concurrency_limit": limit.concurrency if limit else None,
        }
        return self._frame.page(asked, "usage.html", query, context)

    def image(self, asked: Asked) -> Response:
        """The chart of the view, or the panel that the address names: `requests` or `concurrency`."""
        view, panel = asked.view, asked.view.value("panel")
        query = asked.query(view.asked(*LOG_ONLY))
        if not panel:
            answer, metric = self._frame.reader.usage(query), query.metrics[0]
            shape = charts.shape_of(view.value("chart"), metric)
            return self._images.answer(asked, usage_figure(view, answer, metric, shape, view.value("scale") == "log"))
        answer = self._frame.reader.usage(usage_page.requests_query(query, usage_page.past(view), asked.now_us))
        figures = _requests_figures(view, answer, self._frame.limit(asked))
        if panel not in figures:
            raise NotFoundError(f"there is no panel '{panel}': there are {', '.join(figures)}")
        return self._images.answer(asked, figures[panel])

    def _controls(self, asked: Asked, query: UsageQuery | None) -> Context:
        view = asked.view
        metric = query.metrics[0] if query else view.value("metric", "credits")
        shape = charts.shape_of(view.value("chart"), metric) if query else ""
        return {
            "metrics": controls.metrics(metric, self._quantities.of(query.audience, asked.now_us) if query else ()),
            "breakdowns": controls.breakdowns(view.value("breakdown"), asked.principal, asked.scope),
            "cumulable": controls.is_cumulable(metric),
            "shape": shape,
            "kept": controls.kept(view, shape),
            "csv": view.answer_href("/v1/usage.csv", *LOG_ONLY),
            "json": view.answer_href("/v1/usage", *LOG_ONLY),
            "tiles": [],
            "panels": [],
        }


def _tiles(
    totals: UsageAnswer, before: UsageAnswer | None, month: UsageAnswer | None, limit: Limit | None
) -> list[tile.Tile]:
    query = totals.query
    metric = query.metrics[0]
    tiles = [tile.of_total(metric, tile.total_of(totals, metric), tile.total_of(before, metric), query)]
    peak = tile.of_peak(totals, metric)
    if peak:
        tiles.append(peak)
    if month:
        end_us = bucket_end_us(month.query.start_us, "month", query.zone)
        tiles += tile.of_month(month, end_us, _credits(limit))
    return tiles


def _credits(limit: Limit | None) -> Decimal | None:
    return limit.monthly_credits if limit else None


def _panel(view: View, answer: UsageAnswer, totals: UsageAnswer, before: UsageAnswer | None, metric: str) -> Context:
    """The chart of one metric, and its series in a table."""
    shape = charts.shape_of(view.value("chart"), metric)
    query = answer.query
    return {
        "figure": usage_figure(view, answer, metric, shape, view.value("scale") == "log", f"usage-{metric}"),
        "images": view.image_hrefs(_IMAGE, {"metric": metric, "panel": None}),
        "table": usage_page.series_table(view, answer, metric, tile.total_of(totals, metric), before)
        if query.breakdown or query.interval == "total"
        else None,
    }


def _requests_figures(view: View, answer: UsageAnswer, limit: Limit | None) -> Mapping[str, Figure]:
    """ElevenLabs' own pair: requests as bars, and concurrency as two lines under a limit."""
    closer = closer_in_log(view)
    requests = usage_figure(view, usage_page.only(answer, ("requests",)), "requests", id="requests")
    concurrency = usage_page.only(answer, ("concurrency", "concurrency_average"))
    slots, most = usage_page.CONCURRENCY_SLOTS, limit.concurrency if limit else None
    return {
        "requests": replace(linked(requests, answer, closer), title="API requests"),
        "concurrency": lines_figure("concurrency", "Concurrent requests", concurrency, slots, closer, most),
    }
