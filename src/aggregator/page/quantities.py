"""What an app meters by itself, as far as the newest calls show it: the names for a page's metric picker.

Remembered for a while, since each page shows them and they change when the app does.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from typing import Any

from aggregator.query import Audience
from aggregator.reader import Reader
from aggregator.request_log import RequestsQuery

LOOKED_THROUGH = 100  # newest calls: a quantity that none of them has is one that hardly anybody would pick
SPAN_US = 30 * 86_400_000_000
REMEMBERED_SECONDS = 60.0  # until a new quantity is offered
AUDIENCES = 1000  # remembered at once; beyond it the remembering begins anew


class Quantities:
    """Any thread may ask."""

    def __init__(self, reader: Reader, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._known: dict[Audience, tuple[float, list[str]]] = {}

    def of(self, audience: Audience, now_us: int) -> list[str]:
        """In their order of appearance, the newest call first."""
        until, names = self._known.get(audience, (0.0, []))
        if self._clock() < until and names:
            return names
        query = RequestsQuery(max(0, now_us - SPAN_US), now_us, UTC, audience=audience, limit=LOOKED_THROUGH)
        names = _names(self._reader.requests(query).requests)
        if len(self._known) >= AUDIENCES:
            self._known = {}
        self._known[audience] = (self._clock() + REMEMBERED_SECONDS, names)
        return names


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record["quantities"]))
