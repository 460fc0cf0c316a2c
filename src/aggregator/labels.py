"""Display names: what a person reads where the store has an identifier. Per workspace and dimension."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from aggregator.query import Statement
from aggregator.store import Store

Names = dict[str, dict[str, str]]
"""Dimension → value → label."""

Mark = tuple[int, int] | None

KEPT_NAMES = 200  # answers remembered: a workspace has some hundred labels at most, and a page asks for a few


class Labels:
    """Kept in the store. `now` in Unix seconds."""

    def __init__(self, store: Store, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def put(self, workspace: str, dimension: str, labels: Mapping[str, str]) -> None:
        """Set the labels of these values; an empty label takes it away."""
        written_us = int(self._now() * 1_000_000)
        columns = ("workspace", "dimension", "value", "label", "written_us")
        rows = [(workspace, dimension, value, label, written_us) for value, label in labels.items()]
        self._store.write("labels", columns, rows)

    def of(self, workspace: str | None, dimensions: Iterable[str]) -> Names:
        """The labels of these dimensions. Over all workspaces (None), a value that has several keeps its identifier."""
        names: Names = {dimension: {} for dimension in dimensions}
        if not names:
            return names
        where, parameters = "dimension IN {dimensions:Array(String)}", {"dimensions": list(names)}
        if workspace is not None:
            where += " AND workspace = {workspace:String}"
        found = self._store.select(
            Statement(
                "SELECT dimension, value, any(label) FROM labels FINAL "  # noqa: S608  # only placeholders
                f"WHERE {where} AND label != '' GROUP BY dimension, value HAVING uniqExact(label) = 1",
                {**parameters, "workspace": workspace or ""},
            )
        )
        for dimension, value, label in found:
            names[str(dimension)][str(value)] = str(label)
        return names


class KeptNames:
    """The labels that questions need again and again, read again once they have changed; any thread may ask.

    `mark` tells: it changes with whatever is set (`Freshness.labels_mark`), and is None while nothing is.
    """

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._lock = threading.Lock()
        self._mark: Mark = None
        self._known: dict[tuple[str | None, tuple[str, ...]], Names] = {}

    def of(self, workspace: str | None, dimensions: Sequence[str], mark: Mark) -> Names:
        """As `Labels.of`."""
        asked = (workspace, tuple(dimensions))
        with self._lock:
            if mark != self._mark or len(self._known) >= KEPT_NAMES:
                self._mark, self._known = mark, {}
            known = self._known if mark else {asked: {name: {} for name in dimensions}}
            if asked in known:
                return known[asked]
        names = self._labels.of(workspace, dimensions)
        with self._lock:
            if mark == self._mark:  # else somebody has seen newer ones meanwhile
                self._known[asked] = names
        return names
