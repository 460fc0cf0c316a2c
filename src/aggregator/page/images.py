"""Charts as images for mails and documents: drawn without a browser, kept while they stay the same.

A specification holds its numbers, so equal specifications are equal images, whoever asks.
"""

import json
import threading
from collections import OrderedDict
from hashlib import blake2b

from fastapi import Response

from aggregator import charts
from aggregator.errors import Problem, QueryError
from aggregator.page.asked import Asked
from aggregator.page.colors import Theme
from aggregator.page.drawing import Drawing
from aggregator.page.figure import Figure
from aggregator.page.rendering import Rendering
from aggregator.page.view import View

KEPT_BYTES = 16 * 1024 * 1024  # some two hundred charts: what a morning's mails ask for again and again
MIN_WIDTH, MAX_WIDTH = 320, 1920
_TYPES = {"svg": "image/svg+xml", "png": "image/png"}


class Images:
    """Any thread may ask."""

    def __init__(self, drawing: Drawing, rendering: Rendering) -> None:
        self._drawing = drawing
        self._rendering = rendering
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def answer(self, asked: Asked, figure: Figure) -> Response:
        """The figure as the address' `chart.svg` or `chart.png`, in its `theme` and `width`. Raises QueryError."""
        if figure.problem:
            return self._rendering.text(asked.request, figure.problem, 422)
        theme: Theme = "dark" if asked.view.value("theme") == "dark" else "light"
        names = [entry.label for entry in figure.entries]
        spec = charts.image(figure.chart, figure.title, figure.subtitle, names, _width(asked.view))
        format = asked.request.url.path.rpartition(".")[2]
        return self._rendering.image(asked.request, self._drawn(format, spec, figure.themes[theme]), _TYPES[format])

    def _drawn(self, format: str, spec: charts.Spec, theme: charts.Spec) -> bytes:
        key = blake2b(json.dumps([format, spec, theme]).encode(), digest_size=16).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        image = self._drawing.png(spec, theme) if format == "png" else self._drawing.svg(spec, theme)
        with self._lock:
            self._kept[key] = image
            while sum(map(len, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return image


def _width(view: View) -> int:
    text = view.value("width", str(charts.IMAGE_WIDTH))
    if not text.isascii() or not text.isdecimal() or not MIN_WIDTH <= int(text) <= MAX_WIDTH:
        message = f"must be a whole number of pixels from {MIN_WIDTH} to {MAX_WIDTH}, not '{text}'"
        raise QueryError([Problem("width", message)])
    return int(text)
