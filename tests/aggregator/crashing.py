"""A store on which a rollup dies."""

from typing import Any

from aggregator.store import Store


class CrashedError(Exception):
    pass


class Crashing:
    """Lets so many writes through, and fails at the next: what was written so far is there."""

    def __init__(self, store: Store, writes: int) -> None:
        self.select = store.select
        self._store = store
        self._left = writes

    def execute(self, *arguments: Any) -> None:
        self._count()
        self._store.execute(*arguments)

    def write(self, *arguments: Any) -> None:
        self._count()
        self._store.write(*arguments)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise CrashedError
