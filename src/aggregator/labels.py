"""Display names: what a person reads where the store has an identifier. Per workspace and dimension."""

import time
from collections.abc import Callable, Iterable, Mapping

from aggregator.query import Statement
from aggregator.store import Store

Names = dict[str, dict[str, str]]
"""Dimension → value → label."""


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
