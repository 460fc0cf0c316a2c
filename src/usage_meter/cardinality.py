"""The guard against a dimension that takes ever new values, such as an id that was taken for a voice.

Of one dimension, a process takes at most so many new values per minute; those beyond become `__other__`. As many
again have a place if they were in use the minute before, so that a flood does not push out what is well known. No call
is ever dropped, and the clock is asked only when a value is new to its minute.
"""

import logging
from collections import Counter
from collections.abc import Callable
from time import monotonic

logger = logging.getLogger("usage_meter")

OTHER = "__other__"
"""Stands for the values that were too many."""

WINDOW_SECONDS = 60.0


class CardinalityGuard:
    """`limit` new values of a dimension per minute. `cut` counts what became `__other__`, by dimension.

    Threads may race for the last places of a minute: then a few values more get through, which hurts nobody.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = monotonic) -> None:
        self.limit = limit
        self.cut: Counter[str] = Counter()
        self._clock = clock
        self._values: dict[str, _Values] = {}

    def admit(self, dimension: str, value: str) -> str:
        """The value, or `__other__` when it is one too many."""
        values = self._values.get(dimension)
        if values is None:
            values = self._values.setdefault(dimension, _Values(self._clock()))
        if not value or value in values.current or values.admit(value, self.limit, self._clock()):
            return value
        self._warn(dimension)
        self.cut[dimension] += 1
        return OTHER

    def _warn(self, dimension: str) -> None:
        if dimension not in self.cut:
            logger.warning(
                "%s took more than %d new values within a minute: further ones are recorded as %s (logged once)",
                dimension,
                self.limit,
                OTHER,
            )


class _Values:
    """Of one dimension: the values of this minute, and of the last one before it that had a new value."""

    __slots__ = ("_ends", "_previous", "current")

    def __init__(self, now: float) -> None:
        self.current: set[str] = set()
        self._previous: set[str] = set()
        self._ends = now + WINDOW_SECONDS

    def admit(self, value: str, limit: int, now: float) -> bool:
        if now >= self._ends:
            self._previous, self.current = self.current, set()
            self._ends = now + WINDOW_SECONDS
        room = limit if value not in self._previous else 2 * limit
        if len(self.current) >= room:
            return False
        self.current.add(value)
        return True
