"""The Request Log, and the page of each call in it: asks what they show. As data they are in `log_page`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import Response

from aggregator.errors import QueryError
from aggregator.page import log_page
from aggregator.page.asked import Asked
from aggregator.page.frame import Context, Frame
from aggregator.page.look import Look
from aggregator.page.view import LOG_ONLY, USAGE_ONLY
from aggregator.parameters import requests_query

PATH = "/requests"
_ROWS = 50  # of one page, where the address does not say another number
MAX_ROWS = 500


class LogTab:
    def __init__(self, frame: Frame, look: Look) -> None:
        self._frame = frame
        self._look = look

    def page(self, asked: Asked) -> Response:
        view = asked.view
        context: Context = {
            "csv": view.answer_href("/v1/requests.csv", *USAGE_ONLY, "cursor", "limit"),
            "json": view.answer_href("/v1/requests", *USAGE_ONLY),
            "rows": [],
            "links": {},
            "kept_since": "",
            "tail": log_page.tail_href(view),
        }
        items = view.asked(*USAGE_ONLY)
        if not view.value("limit"):
            items = (*items, ("limit", str(_ROWS)))
        try:
            wanted = requests_query(items, asked.principal, asked.now_us)
            query = self._frame.reader.kept(wanted)
            shown = asked.query((*view.asked(*USAGE_ONLY, *LOG_ONLY), ("interval", "total")))
        except QueryError as error:
            return self._frame.refused(asked, error, "log.html", context)
        complete_until_us = self._frame.reader.complete_until_us()  # before the rows are read
        answer = self._frame.reader.requests(replace(query, limit=min(query.limit, MAX_ROWS)))
        context |= {
            "empty": "" if answer.requests else self._frame.nothing(asked, shown),
            "complete_until": self._frame.freshness(complete_until_us, asked.zone),
            "rows": log_page.rows(view, answer.requests, asked.zone, self._frame.names(asked, log_page.NAMED)),
            "links": log_page.page_links(view, answer.next_cursor),
            "kept_since": log_page.kept_since(wanted, query),
        }
        return self._frame.page(asked, "log.html", shown, context)

    def call(self, asked: Asked, id: str) -> Response:
        """One call's own page. Raises NotFoundError."""
        record = self._frame.reader.request(id, asked.principal.widest_audience())
        trace = self._look.trace_href(record["trace_id"])
        names = self._frame.names(asked, (*log_page.NAMED, "region", "route"))
        context: Context = {
            "call": log_page.call(asked.view, record, asked.zone, names, trace),
            "around": log_page.rows(asked.view, self._around(asked, record), asked.zone, names),
        }
        return self._frame.rendering.html(asked.request, "call.html", self._frame.head(asked, PATH) | context)

    def _around(self, asked: Asked, record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The call among those of the same key, the newest first."""
        audience = asked.principal.widest_audience()
        found: list[Sequence[Mapping[str, Any]]] = []
        for later in (True, False):
            query = log_page.neighbours(record, audience, later=later)
            found.append(self._frame.reader.requests(query).requests if query else [])
        after, before = found
        return [*reversed(after), record, *before]
