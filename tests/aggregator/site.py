"""The pages over a real store, without a browser: what a test asks them, and how it reads what they say."""

import csv
import io
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from httpx import Response

from aggregator import pages
from aggregator.export import usage_csv
from aggregator.http import problems
from aggregator.labels import Labels
from aggregator.limits import Limits
from aggregator.page.drawing import Drawing
from aggregator.page.look import Look
from aggregator.parameters import usage_query
from aggregator.reader import Reader
from aggregator.store import Store
from aggregator.tokens import OPERATOR, Principal, TokenError
from tests.aggregator.events import NOON, us

NOW = NOON + timedelta(hours=2)
WEEK = "last=7d&tz=Europe/Berlin"


class Site:
    """The pages over a real store, at a fixed time; `principal` is who asks."""

    def __init__(self, store: Store, drawing: Drawing, look: Look | None = None) -> None:
        self.reader = Reader(store, lambda: us(NOW))
        self.store = store
        self.principal: Principal | None = OPERATOR
        self.drawing = drawing
        app = FastAPI()
        problems.add_error_handlers(app)
        self.limits = Limits(store)
        self.labels = Labels(store)
        routes = pages.router(
            self.reader,
            self._who,
            drawing,
            NOW.timestamp,
            look=look,
            labels=self.labels,
            limits=self.limits,
        )
        app.include_router(routes)
        self.http = TestClient(app, base_url="http://localhost", follow_redirects=False)

    def _who(self, _: Request) -> Principal:
        if self.principal is None:
            raise TokenError("no token: send one")
        return self.principal

    def get(self, address: str, status: int = 200) -> Response:
        response: Any = self.http.get(address)
        assert response.status_code == status, response.text
        return response  # type: ignore[no-any-return]

    def csv(self, query: str) -> list[list[str]]:
        """What `/v1/usage.csv` says for the same query string, a column per series."""
        asked = usage_query(parse_qsl(query, keep_blank_values=True), self.principal or OPERATOR, us(NOW))
        return list(csv.reader(io.StringIO("".join(usage_csv(self.reader.usage(asked), "wide")))))


class Table(HTMLParser):
    """The cells of the table with a class or an id, exact numbers where the text is shorter."""

    def __init__(self, html: str, name: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._name, self._inside, self._exact = name, False, ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "table":
            self._inside = self._name in (*(attributes.get("class") or "").split(), attributes.get("id"))
        elif self._inside and tag == "tr":
            self.rows.append([])
        elif self._inside and tag in ("td", "th"):
            self.rows[-1].append("")
            self._exact = ""
        elif self._inside and tag == "data":
            self._exact = attributes.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside and self.rows and self.rows[-1]:
            self.rows[-1][-1] += self._exact or data.strip()
            self._exact = ""


def numbers(rows: list[list[str]]) -> list[list[float | None]]:
    def number(text: str) -> float | None:
        return float(text.replace(",", "")) if text not in ("", "–") else None

    return [[number(text) for text in row[1:]] for row in rows[1:]]
