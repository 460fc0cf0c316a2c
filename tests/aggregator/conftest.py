"""A real store for every test: one engine for the run (chDB opens one path per process), emptied for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.query import Statement
from aggregator.store import Store


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    directory: Path = tmp_path_factory.mktemp("store")
    with Store(f"chdb://{directory}") as store:
        yield store


@pytest.fixture
def store(engine: Store) -> Store:
    """Empty tables."""
    engine.select(Statement("TRUNCATE TABLE events", {}))
    return engine
