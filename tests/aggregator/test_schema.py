"""The schema's versions: every store that was ever released opens and is brought forward, whatever happened to it."""

import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from aggregator.errors import StoreError
from aggregator.measures import DURATIONS, TTFBS
from aggregator.query import Statement
from aggregator.schema import Section, released, sections
from aggregator.sketch import Sketch
from aggregator.store import Store
from tests.aggregator.events import call
from tests.conftest import wait_until
from tests.test_commands import run

FAILS = "SELECT throwIf(1, 'the machine dies here')"


def columns(store: Store) -> list[tuple[str, ...]]:
    """What the store consists of, but for the versions themselves."""
    found = Statement(
        "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() "
        "AND table != 'schema_versions' ORDER BY ALL",
        {},
    )
    return [tuple(row) for row in store.select(found)]


def version(store: Store) -> int:
    return int(store.select(Statement("SELECT max(version) FROM schema_versions", {}))[0][0])


def execute(store: Store, *statements: str) -> None:
    for statement in statements:
        store.select(Statement(statement, {}))


def test_sections_count_up_and_keep_their_statements() -> None:
    text = "-- about\n\n-- version 1: a\nCREATE a\n;\n-- why\nCREATE b\n;\n-- version 2: c\nALTER a\n"

    assert sections(text) == [Section(1, ("CREATE a", "-- why\nCREATE b")), Section(2, ("ALTER a",))]
    with pytest.raises(ValueError, match=r"the schema's sections are \[1, 3\]: must count up from 1"):
        sections(text.replace("version 2", "version 3"))


def test_a_store_older_than_versions_is_brought_forward_with_its_data(tmp_path: Path) -> None:
    url, first = f"chdb://{tmp_path}", released()[0]
    with Store(url, [first]) as store:
        store.insert([call(), call()])
        execute(store, "DROP TABLE schema_versions")

    with Store(url) as store:
        assert version(store) == len(released())
        assert store.select(Statement("SELECT count() FROM events FINAL", {})) == [(2,)]


def test_what_is_new_is_applied_once_to_a_store_that_has_data(tmp_path: Path) -> None:
    url, known = f"chdb://{tmp_path}", released()
    following = Section(len(known) + 1, ("ALTER TABLE events ADD COLUMN IF NOT EXISTS colour String DEFAULT 'red'",))
    with Store(url) as store:
        store.insert([call()])

    with Store(url, [*known, following]) as store:
        assert store.select(Statement("SELECT colour FROM events FINAL", {})) == [("red",)]
        execute(store, "ALTER TABLE events MODIFY COLUMN colour DEFAULT 'blue'")
        store.insert([call(user="later")])
    with Store(url, [*known, following]) as store:
        assert version(store) == following.version
        found = store.select(Statement("SELECT colour FROM events FINAL WHERE user = 'later'", {}))
        assert found == [("blue",)], "the section was applied again"


LEVELS = ("usage_15m", "usage_1h", "usage_1d", "usage_1mo")
BINS: tuple[list[int], ...] = ([7], [-1, 5, 5, 7], [*range(300), *range(0, 300, 3)], [])
"""Of the calls behind a rollup's row; 300 of them take two bytes to count."""


def with_states(table: str) -> str:
    """Rows as version 2 wrote them, a workspace for each of BINS."""
    state = "quantilesExactWeightedStateIf(0.5, 0.95, 0.99)(toInt16(bin), 1, bin > -9)"
    bins = " UNION ALL ".join(f"SELECT {i} AS space, arrayJoin({[*one, -9]}) AS bin" for i, one in enumerate(BINS))
    return (
        f"INSERT INTO {table} (cube, workspace, bucket, durations, ttfbs) "
        f"SELECT 'path', toString(space), toDateTime(0, 'UTC'), {state}, {state} FROM ({bins}) GROUP BY space"
    )


@pytest.mark.parametrize("dies_after", [None, 1, 2, 3, 5])
def test_sketches_of_sealed_days_are_brought_forward(tmp_path: Path, dies_after: int | None) -> None:
    """Given rollups as version 2 kept them, whose calls are gone, I expect the same quantiles of the new columns."""
    url, known = f"chdb://{tmp_path}", released()
    with Store(url, known[:3]) as store:
        execute(store, *map(with_states, LEVELS))
    if dies_after:
        broken = Section(4, (*known[3].statements[:dies_after], FAILS))
        with pytest.raises(StoreError, match="the machine dies here"):
            Store(url, [*known[:3], broken])

    with Store(url) as store:
        for table in LEVELS:
            for one in (DURATIONS, TTFBS):
                selected = f"finalizeAggregation({one.merged}), groupArrayArray({one.name})"
                sql = f"SELECT {selected} FROM {table} GROUP BY workspace ORDER BY workspace"
                for bins, (found, cells) in zip(BINS, store.select(Statement(sql, {})), strict=True):
                    assert Counter({cell >> 32: cell & 0xFFFFFFFF for cell in cells}) == Counter(bins)
                    assert list(found) == (list(whole(bins).bins) if bins else [0, 0, 0])


def whole(bins: Sequence[int]) -> Sketch:
    cells = b"".join(struct.pack("<hQ", *one) for one in Counter(bins).items())
    count = len(set(bins))
    head = bytes([count]) if count < 128 else bytes([count & 127 | 128, count >> 7])
    return Sketch([], "00").merged(Sketch([], (head + cells).hex()))


def test_users_and_keys_of_old_stores_are_found_as_before(tmp_path: Path) -> None:
    """Before the engine has rewritten them, while it does, and after."""
    url, known = f"chdb://{tmp_path}", released()
    asked = Statement("SELECT user, api_key, count() FROM events FINAL WHERE user = 'alice' GROUP BY ALL", {})
    with Store(url, known[:6]) as store:
        store.insert([call(api_key="key"), call(user="bob")])

    with Store(url) as store:
        assert store.select(asked) == [("alice", "key", 1)]
        store.insert([call(api_key="key")])
        rewritten = Statement("SELECT count() FROM system.mutations WHERE NOT is_done", {})
        wait_until(lambda: store.select(rewritten) == [(0,)], "all columns are rewritten")
        assert store.select(asked) == [("alice", "key", 2)]
        for table in ("events", "unsealed"):
            changed = [
                type for where, name, type in columns(store) if (where, name) in ((table, "user"), (table, "api_key"))
            ]
            assert changed == ["LowCardinality(String)"] * 2


@pytest.mark.parametrize("done", [0, 1, 3])
def test_a_crash_in_the_middle_of_a_section_is_healed_by_the_next_start(tmp_path: Path, done: int) -> None:
    *before, last = released()
    url, broken = f"chdb://{tmp_path}", Section(last.version, (*last.statements[:done], FAILS))
    with pytest.raises(StoreError, match="the machine dies here"):
        Store(url, [*before, broken])

    with Store(url) as store:
        healed = columns(store)
        assert version(store) == last.version
    with Store(f"chdb://{tmp_path / 'new'}") as store:
        assert columns(store) == healed


def test_what_nothing_comes_to_any_more_is_merged_into_one_part_in_old_stores_too(tmp_path: Path) -> None:
    """By the engine itself, an hour later: here a second, so that it can be seen."""
    url, known = f"chdb://{tmp_path}", released()
    tables = ("events", *LEVELS, "peaks_15m")
    with Store(url, known[:5]) as store:
        for _ in range(3):
            store.insert([call()])
    soon = [Section(one.version, tuple(text.replace("3600", "1") for text in one.statements)) for one in known]

    with Store(url, soon) as store:
        for table in tables[1:]:
            for _ in range(3):
                execute(store, f"INSERT INTO {table} (workspace, bucket) VALUES ('w', toDateTime(0, 'UTC'))")
        parts = Statement(
            "SELECT DISTINCT table FROM system.parts WHERE database = currentDatabase() AND active AND rows > 0 "
            "GROUP BY table, partition_id HAVING count() = 1",
            {},
        )
        wait_until(lambda: {row[0] for row in store.select(parts)} >= set(tables), "each has one part", seconds=60)


def test_a_store_that_a_newer_release_wrote_is_left_alone(tmp_path: Path) -> None:
    ahead = len(released()) + 1
    with Store(f"chdb://{tmp_path}", [*released(), Section(ahead, ("SELECT 1",))]):
        pass

    found = run("serve", "--store-url", f"chdb://{tmp_path}", "--redis-url", "embedded", "--port", "0")

    assert found.returncode == 2
    assert found.stderr.startswith(f"usage-meter: the store has schema version {ahead}, and this release knows ")
    assert len(found.stderr.strip().splitlines()) == 1
