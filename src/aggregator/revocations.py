"""Tokens that are refused before they expire: an operator revoked them by their id."""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC

from aggregator.buckets import from_us
from aggregator.errors import StoreError
from aggregator.query import Statement
from aggregator.store import Store

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 5.0  # how late another aggregator on the same store may notice


class Revocations:
    """Kept in the store, and in memory for every request's check. While the store is away the last known hold."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._ids: frozenset[str] = frozenset()
        self._read_at = float("-inf")

    def revoke(self, token_id: str) -> None:
        self._store.write("revoked", ("token_id", "at"), [(token_id, from_us(time.time_ns() // 1000, UTC))])
        with self._lock:
            self._ids |= {token_id}

    def __contains__(self, token_id: object) -> bool:
        if self._clock() - self._read_at >= REFRESH_SECONDS:
            self._refresh()
        return token_id in self._ids

    def _refresh(self) -> None:
        self._read_at = self._clock()
        try:
            found = self._store.select(Statement("SELECT DISTINCT token_id FROM revoked", {}))
        except StoreError as error:
            logger.warning("revoked tokens could not be read, the last known hold: %s", error)
            return
        with self._lock:
            self._ids |= {str(row[0]) for row in found}
