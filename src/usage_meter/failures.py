"""What went wrong on our side: counted by kind, logged once per kind, never raised into the app."""

import logging
import threading
from collections import Counter

logger = logging.getLogger("usage_meter")


class Failures:
    """Counts by kind; the first of each kind is logged with its traceback, so that a log is never flooded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, kind: str, error: BaseException) -> None:
        with self._lock:
            self._counts[kind] += 1
            first = self._counts[kind] == 1
        if first:
            logger.warning("%s failed; the app is not affected, further ones are only counted", kind, exc_info=error)

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)
