"""Stores as older releases left them."""

from aggregator.cover import LEVELS, PEAKS
from aggregator.query import Statement
from aggregator.store import Store


def without_whole_workspaces(store: Store) -> None:
    """Rollups of before format 1: no cube is of whole workspaces. Whoever has looked at the store looks anew."""
    at_once = "SETTINGS mutations_sync = 2"
    for level in LEVELS:
        if level is not PEAKS:
            store.select(Statement(f"ALTER TABLE {level.table} DELETE WHERE cube = 'workspace' {at_once}", {}))
    store.select(Statement(f"ALTER TABLE published UPDATE format = 0 WHERE 1 {at_once}", {}))
