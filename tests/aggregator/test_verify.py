"""`usage-meter verify`: what the rollups say is what the calls say, or it is found and repaired."""

from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aggregator.cli import app
from aggregator.freshness import Freshness
from aggregator.query import Statement
from aggregator.rollup import Rollup
from aggregator.store import Store
from tests.aggregator.events import NOON, call


def verify(directory: Path, *arguments: str) -> Result:
    found = CliRunner().invoke(
        app, ["verify", "--store-url", f"chdb://{directory}", *arguments], env={"COLUMNS": "200"}
    )
    assert found.exception is None or isinstance(found.exception, SystemExit)
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A store with calls of two months, a correction and a duplicate, and all rollups of them."""
    events = [call(NOON + timedelta(hours=7 * number), credits=number, voice=f"v{number % 3}") for number in range(150)]
    with Store(f"chdb://{tmp_path}") as store:
        store.insert(events)
        store.insert([events[3], call(NOON, id=events[0].id, version=2, credits=1000)])
        rollup = Rollup(store, Freshness(store), margin_seconds=0)
        while rollup.step():
            pass
    return tmp_path


def spoil(directory: Path, table: str) -> None:
    with Store(f"chdb://{directory}") as store:
        first = f"cube = 'voice' AND bucket = (SELECT min(bucket) FROM {table})"
        change = f"ALTER TABLE {table} UPDATE calls = calls + 1 WHERE {first}"
        store.select(Statement(f"{change} SETTINGS mutations_sync = 2", {}))


def test_rollups_that_are_right_are_said_to_be_right(directory: Path) -> None:
    found = verify(directory)

    quarters, hours, days, months, cubes = 150, 150, 44, 2, 4
    assert found.stdout == f"compared\t{(quarters + hours + days + months) * cubes}\ndifferent\t0\n"
    assert found.exit_code == 0


@pytest.mark.parametrize("table", ["usage_15m", "usage_1mo"])
def test_what_differs_is_shown_and_repaired(directory: Path, table: str) -> None:
    spoil(directory, table)

    found, mended, after = verify(directory), verify(directory, "--repair"), verify(directory)

    assert found.exit_code == 1
    (row,) = [line.split() for line in found.stdout.splitlines() if table in line]
    calls, says = int(row[3]), int(row[4])
    assert (row[1], row[2]) == (table, "voice")
    assert says > calls
    assert found.stdout.endswith("different\t1\n")
    assert (mended.exit_code, after.exit_code) == (0, 0)
    assert after.stdout.endswith("different\t0\n")


def test_a_store_in_use_names_its_holder(directory: Path) -> None:
    with Store(f"chdb://{directory}"):
        found = verify(directory)

    assert found.exit_code == 2
    assert "an embedded store belongs to one process; stop that one" in found.stderr
