"""`usage-meter verify`: what the rollups say is what the calls say, or it is found and repaired."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner, Result

from aggregator.backlog import Backlog
from aggregator.cli import app
from aggregator.consumer import Consumer
from aggregator.freshness import Freshness
from aggregator.query import Statement
from aggregator.rollup import Rollup
from aggregator.store import Store
from tests.aggregator.events import NOON, call, entry, load
from tests.conftest import RedisServer
from usage_meter import keys


def verify(directory: Path, *arguments: str) -> Result:
    found = CliRunner().invoke(
        app, ["verify", "--store-url", f"chdb://{directory}", *arguments], env={"COLUMNS": "200"}
    )
    assert found.exception is None or isinstance(found.exception, SystemExit)
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A store with calls of two months, a correction and a duplicate, and all rollups of them."""
    events = [call(NOON + timedelta(hours=53 * number), credits=number, voice=f"v{number % 3}") for number in range(20)]
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

    quarters, hours, days, months, cubes, peaks = 20, 20, 20, 2, 5, 20
    assert found.stdout == f"compared\t{(quarters + hours + days + months) * cubes + peaks}\ndifferent\t0\n"
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


def test_a_kept_peak_that_is_wrong_is_shown_and_repaired(directory: Path) -> None:
    with Store(f"chdb://{directory}") as store:
        first = "dimension = 'workspace' AND bucket = (SELECT min(bucket) FROM peaks_15m)"
        change = f"ALTER TABLE peaks_15m UPDATE peak = peak + 1 WHERE {first}"
        store.select(Statement(f"{change} SETTINGS mutations_sync = 2", {}))

    found, mended = verify(directory), verify(directory, "--repair")

    assert found.exit_code == 1
    assert "peaks_15m" in found.stdout
    assert "different\t1\n" in found.stdout
    assert mended.exit_code == 0


def test_a_repair_leaves_what_waits_for_its_sealed_day_to_the_service(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGGREGATOR_RETENTION_RAW", "30")
    count = Statement("SELECT count() FROM unsealed", {})
    with Store(f"chdb://{directory}") as store:
        store.insert([call(datetime.now(UTC) - timedelta(days=1))])
        rollup = Rollup(store, Freshness(store), margin_seconds=0)
        while rollup.step():
            pass
        newest = "cube = 'voice' AND bucket = (SELECT max(bucket) FROM usage_15m)"
        change = f"ALTER TABLE usage_15m UPDATE calls = calls + 1 WHERE {newest}"
        store.select(Statement(f"{change} SETTINGS mutations_sync = 2", {}))
        for blocks in load(call(NOON)).blocks():
            store.load(blocks, "unsealed")

    mended = verify(directory, "--repair")

    assert mended.exit_code == 0
    assert "1 differences: computed anew" in mended.stderr
    with Store(f"chdb://{directory}") as store:
        assert store.select(count) == [(1,)]


def test_what_was_accepted_is_accounted_for(
    directory: Path, redis_server: RedisServer, redis_client: "redis.Redis"
) -> None:
    with Store(f"chdb://{directory}") as store:
        redis_client.xadd(keys.events(0), entry(call(), call()))
        redis_client.xadd(keys.events(0), {b"v": b"99", b"n": b"4", b"b": b"?"})
        Consumer(redis_client, store, Backlog(redis_client), name="us").step()
        redis_client.xadd(keys.events(0), entry(call()))

    found = verify(directory, "--redis-url", redis_server.url)
    redis_client.xtrim(keys.events(0), maxlen=0, approximate=False)
    robbed = verify(directory, "--redis-url", redis_server.url)

    said = dict(line.split("\t") for line in found.stdout.splitlines())
    assert [said[name] for name in ("accepted", "settled", "waiting", "missing_entries")] == ["3", "2", "1", "0"]
    assert [said[name] for name in ("events", "stored", "dead", "missing_events")] == ["6", "2", "4", "0"]
    assert found.exit_code == 0
    assert "missing_entries\t1" in robbed.stdout
    assert robbed.exit_code == 1
