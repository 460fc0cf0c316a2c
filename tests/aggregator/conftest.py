"""A real store for every test: one engine for each file, emptied for each test (chDB opens one path at a time)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.query import Statement
from aggregator.store import Store


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    directory: Path = tmp_path_factory.mktemp("store")
    with Store(f"chdb://{directory}") as store:
        yield store


@pytest.fixture
def store(engine: Store) -> Store:
    """Empty tables."""
    engine.select(Statement("TRUNCATE TABLE events", {}))
    return engine
