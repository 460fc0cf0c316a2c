"""The Analytics page: asks what it shows. What that looks like as data is in `analytics_page`."""

from fastapi import Response

from aggregator.errors import NotFoundError, QueryError
from aggregator.page import analytics_page, usage_page
from aggregator.page.asked import Asked
from aggregator.page.frame import Context, Frame
from aggregator.page.images import Images
from aggregator.page.view import View

PATH = "/analytics"
_IMAGE = "/analytics/chart.svg"


class AnalyticsTab:
    def __init__(self, frame: Frame, images: Images) -> None:
        self._frame = frame
        self._images = images

    def page(self, asked: Asked) -> Response:
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
            return self._frame.refused(asked, error, "analytics.html", context)
        (whole, paths, outcomes), (before,) = self._frame.at_once(*queries, wanted=[usage_page.before(queries[0])])
        figures = analytics_page.figures(view, whole, paths, outcomes)
        context |= {
            "empty": self._frame.emptiness(asked, whole),
            "complete_until": self._frame.freshness(whole.complete_until_us, asked.zone),
            "tiles": analytics_page.tiles(whole, before),
            "figures": figures,
            "images": {panel: view.image_hrefs(_IMAGE, {"panel": panel}) for panel in figures},
            "table": analytics_page.path_table(view, paths, whole),
        }
        return self._frame.page(asked, "analytics.html", queries[0], context)

    def image(self, asked: Asked) -> Response:
        """The panel that the address names; the paths by default."""
        items = analytics_page.questions(asked.items)
        (whole, paths, outcomes), _ = self._frame.at_once(*(asked.query(one) for one in items.values()))
        figures = analytics_page.figures(asked.view, whole, paths, outcomes)
        panel = asked.view.value("panel", "paths")
        if panel not in figures:
            raise NotFoundError(f"there is no panel '{panel}': there are {', '.join(figures)}")
        return self._images.answer(asked, figures[panel])
