"""A real store for every test: one engine for each file, emptied for each test (chDB opens one path at a time)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.page.drawing import Drawing
from aggregator.query import Statement
from aggregator.reader import Reader
from aggregator.store import Store
from tests.aggregator.site import Site

_FILLED = Statement("SELECT name FROM system.tables WHERE database = currentDatabase() AND total_rows > 0", {})


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    directory: Path = tmp_path_factory.mktemp("store")
    with Store(f"chdb://{directory}") as store:
        yield store


@pytest.fixture(scope="module")
def kept(engine: Store) -> set[str]:
    """The tables that are not empty in a new store: they describe the store itself."""
    return {name for (name,) in engine.select(_FILLED)}


@pytest.fixture
def store(engine: Store, kept: set[str]) -> Store:
    """Empty tables."""
    for (name,) in engine.select(_FILLED):
        if name not in kept:
            engine.select(Statement(f"TRUNCATE TABLE {name}", {}))
    return engine


@pytest.fixture
def reader(store: Store) -> Reader:
    """Answers from that store, in which nothing is ever on its way."""
    return Reader(store, lambda: 0)


@pytest.fixture(scope="module")
def drawing() -> Iterator[Drawing]:
    """The process that draws; its start takes seconds."""
    found = Drawing()
    yield found
    found.close()


@pytest.fixture
def site(store: Store, drawing: Drawing) -> Site:
    """The pages over that store."""
    return Site(store, drawing)
