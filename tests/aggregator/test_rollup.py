"""The rollups cannot be wrong: whatever comes late, twice or corrected, and wherever their worker dies."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import msgspec
import pytest

from aggregator import cubes
from aggregator.buckets import DAY_US, QUARTER_US, to_us
from aggregator.cover import LEVELS, PEAKS, QUARTERS, Span
from aggregator.dimensions import Filter
from aggregator.freshness import Freshness
from aggregator.plan import plan
from aggregator.query import Audience, Statement, UsageQuery
from aggregator.reader import Reader
from aggregator.rollup import Rollup
from aggregator.store import Store
from aggregator.verify import Verification
from tests.aggregator.crashing import CrashedError, Crashing
from tests.aggregator.events import NOON, call
from tests.aggregator.older_release import without_whole_workspaces

METRICS = ("credits", "requests", "errors", "latency_p95", "ttfb_avg", "concurrency", "quantity.characters")
REQUESTS = (Filter("kind", ("request",)),)
ACME = Audience(workspace="acme")


class Rollups:
    """A worker beside a reader of the same store."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.store = store
        self.freshness = Freshness(store)
        self.worker = Rollup(store, self.freshness, **({"margin_seconds": 0, "grace_seconds": 0} | options))
        self.reader = Reader(store, lambda: 0, freshness=self.freshness)

    def compute(self) -> int:
        count = 0
        while done := self.worker.step():
            count += done
        return count

    def march(self, *breakdown: str, **query: Any) -> UsageQuery:
        start, end = to_us(datetime(2026, 3, 1, tzinfo=UTC)), to_us(datetime(2026, 4, 1, tzinfo=UTC))
        return UsageQuery(
            start, end, UTC, metrics=METRICS, breakdown=breakdown, filters=REQUESTS, audience=ACME, **query
        )

    def answer(self, *breakdown: str, **query: Any) -> list[Any]:
        found = self.reader.usage(self.march(*breakdown, **query))
        return [(one.metric, one.key, one.values, one.total) for one in found.series]

    def credits(self) -> Any:
        return self.reader.usage(self.march(interval="total")).series[0].total

    def levels(self, query: UsageQuery) -> set[str]:
        """What answers the question: names of levels, and `calls`."""
        planned = self.freshness.ask(lambda known: plan(query, known))
        return {one.level.name if one.level else "calls" for one in planned.segments}

    def cube(self, query: UsageQuery) -> str | None:
        planned = self.freshness.ask(lambda known: plan(query, known))
        return planned.cube.name if planned.cube else None

    def rows(self, table: str) -> int:
        return int(self.store.select(Statement(f"SELECT count() FROM {table}", {}))[0][0])


class Tomorrow:
    """A store whose clock is a day ahead."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def select(self, statement: Statement) -> Any:
        if "now64" not in statement.sql:
            return self._store.select(statement)
        return [(*row[:-1], row[-1] + DAY_US) for row in self._store.select(statement)]


def until_done(worker: Rollup) -> None:
    while worker.step():
        pass


@pytest.fixture
def rollups(store: Store) -> Rollups:
    return Rollups(store)


def some_calls(number: int = 40) -> list[Any]:
    """Over five days, of several users, voices and outcomes, some of them in flight for hours."""
    return [
        call(
            NOON + timedelta(hours=3 * i, minutes=7 * i),
            credits=i,
            user=f"user{i % 3}",
            voice=f"voice{i % 4}",
            product="tts",
            api_key=f"key{i % 2}",
            groups=("red", "green")[: i % 3],
            outcome="ok" if i % 5 else "server_error",
            duration_us=(i + 1) * 300_000_000 if i % 7 == 0 else i * 1000,
            ttfb_us=i * 100 if i % 2 else None,
            quantities={"characters": i / 4},
        )
        for i in range(number)
    ]


@pytest.mark.parametrize("breakdown", [(), ("voice",), ("user", "group"), ("api_key", "kind")])
def test_the_answer_is_the_same_from_rollups_and_from_calls(rollups: Rollups, breakdown: tuple[str, ...]) -> None:
    rollups.store.insert(some_calls())
    before = rollups.answer(*breakdown)
    assert "calls" in rollups.levels(rollups.march(*breakdown))

    rollups.compute()

    assert rollups.answer(*breakdown) == before
    assert rollups.levels(rollups.march(*breakdown)) == {"1d"}


def test_what_no_cube_has_is_answered_from_the_calls(rollups: Rollups) -> None:
    rollups.store.insert(some_calls())
    rollups.compute()

    assert rollups.levels(rollups.march("region")) == {"calls"}
    assert rollups.levels(rollups.march("voice", "user")) == {"calls"}


def test_late_calls_duplicates_and_corrections_heal_by_themselves(rollups: Rollups) -> None:
    calls = some_calls()
    rollups.store.insert(calls)
    rollups.compute()
    corrected = msgspec.structs.replace(calls[5], version=2, voice="another", user="another", credits_micro=9_000_000)

    rollups.store.insert([*calls[:3], corrected, call(NOON, credits=100)])

    assert rollups.credits() == sum(range(40)) - 5 + 9 + 100
    voices = rollups.answer("voice")
    rollups.compute()
    assert rollups.credits() == sum(range(40)) - 5 + 9 + 100
    assert rollups.answer("voice") == voices
    assert rollups.levels(rollups.march(interval="total")) == {"1mo"}


@pytest.mark.parametrize("writes", [0, 1, 2, 3, 5, 7, 9])  # before and after what each level writes
def test_a_crash_leaves_the_old_numbers_and_loses_nothing(rollups: Rollups, writes: int) -> None:
    calls = some_calls(4)
    rollups.store.insert(calls)
    rollups.compute()
    rollups.store.insert([call(NOON, credits=100, voice="late")])
    right = rollups.answer("voice")

    crashing = Rollup(Crashing(rollups.store, writes), Freshness(rollups.store), margin_seconds=0)
    with pytest.raises(CrashedError):
        until_done(crashing)

    assert rollups.answer("voice") == right
    anew = Rollups(rollups.store)
    anew.compute()
    assert anew.answer("voice") == right


def test_two_workers_at_the_same_bucket_do_not_count_it_twice(rollups: Rollups) -> None:
    rollups.store.insert(some_calls())
    first, second = Rollups(rollups.store), Rollups(rollups.store)
    began = first.worker._begin(), second.worker._begin()
    buckets = first.freshness.ask(lambda known: known.dirty_buckets(QUARTERS))
    for one, run in ((second, began[1]), (first, began[0])):
        one.worker._compute_quarters(buckets, run)

    rollups.compute()

    assert rollups.credits() == sum(range(40))


def test_a_bucket_is_computed_once_it_is_quiet(store: Store) -> None:
    busy = Rollups(store, margin_seconds=3600)
    store.insert(some_calls())

    assert busy.compute() == 0
    assert busy.credits() == sum(range(40))


def test_a_bucket_that_is_not_over_is_read_from_its_calls(rollups: Rollups) -> None:
    now = datetime.now(UTC)
    rollups.store.insert([call(now, credits=7)])

    assert rollups.compute() == 0


def test_nothing_is_computed_twice_without_need(rollups: Rollups) -> None:
    rollups.store.insert(some_calls())
    assert rollups.compute() > 0

    assert rollups.compute() == 0
    assert Rollups(rollups.store).compute() == 0


def test_a_clock_that_is_set_back_hides_no_call(store: Store) -> None:
    store.insert([call(NOON, credits=1)])
    Rollups(cast(Store, Tomorrow(store))).compute()
    rollups = Rollups(store)

    store.insert([call(NOON, credits=2)])
    assert rollups.credits() == 3

    assert rollups.compute()
    assert rollups.credits() == 3
    assert rollups.levels(rollups.march(interval="total")) == {"1mo"}
    assert not rollups.compute()

    store.insert([call(NOON, credits=4)])
    assert rollups.compute()
    assert rollups.credits() == Rollups(store).credits() == 7


def test_superseded_versions_are_removed_after_a_while(store: Store) -> None:
    rollups = Rollups(store, grace_seconds=3600)
    calls = some_calls(10)
    store.insert(calls)
    rollups.compute()
    rows = {level: rollups.rows(level.table) for level in LEVELS}
    store.insert(calls)
    rollups.compute()
    assert all(rollups.rows(level.table) == 2 * rows[level] for level in LEVELS)

    rollups.worker.sweep()  # questions may still be reading them
    assert rollups.rows(QUARTERS.table) == 2 * rows[QUARTERS]
    Rollups(store).worker.sweep()

    assert {level: rollups.rows(level.table) for level in LEVELS} == rows
    assert rollups.credits() == sum(range(10))


def test_where_calls_may_have_been_removed_nothing_is_computed_from_them(store: Store) -> None:
    calls = some_calls()
    store.insert(calls)
    whole = Rollups(store)
    whole.compute()
    right = whole.answer("voice")

    for day in {f"{datetime.fromtimestamp(one.started_us / 1e6, UTC):%Y%m%d}" for one in calls}:
        store.select(Statement(f"ALTER TABLE events DROP PARTITION {day}", {}))
    sealed = Rollups(
        store, removed_us=lambda table: to_us(datetime(2026, 5, 1, tzinfo=UTC)) if table == "events" else 0
    )

    assert sealed.compute() == 0
    assert sealed.answer("voice") == right
    store.insert([call(NOON, credits=1)])
    assert sealed.compute() == 0


def test_what_an_older_release_computed_answers_as_before_also_beside_what_is_computed_now(rollups: Rollups) -> None:
    calls = some_calls()
    rollups.store.insert(calls)
    rollups.compute()
    right = rollups.answer()
    assert rollups.cube(rollups.march()) == "workspace"
    without_whole_workspaces(rollups.store)

    upgraded = Rollups(rollups.store)
    assert upgraded.compute() == 0, "all of it is still good"
    assert upgraded.answer() == right
    assert (upgraded.cube(upgraded.march()), upgraded.levels(upgraded.march())) == ("path", {"1d"})

    upgraded.store.insert([call(NOON + timedelta(hours=1), credits=100)])  # into an hour that had none, of an old day
    upgraded.compute()
    assert upgraded.credits() == sum(range(40)) + 100
    assert upgraded.levels(upgraded.march(interval="total")) == {"1mo"}
    assert upgraded.cube(upgraded.march(interval="total")) == "workspace", "made of rows of both formats"
    assert upgraded.cube(upgraded.march(interval="hour")) == "path", "some of which are old"
    hours = upgraded.reader.usage(upgraded.march(interval="hour")).series[0].values
    assert sum(hour or 0 for hour in hours) == sum(range(40)) + 100
    verification = Verification(upgraded.store, upgraded.freshness)
    assert [one for month in verification.months() for one in verification.differences(month)] == []


def test_a_long_call_counts_in_each_quarter_that_it_touches(rollups: Rollups) -> None:
    rollups.store.insert([call(NOON, duration_us=3 * 3600 * 1_000_000)])
    rollups.compute()
    late = call(NOON + timedelta(hours=2), duration_us=60_000_000)

    rollups.store.insert([late])

    dirty = rollups.freshness.ask(lambda known: known.dirty_buckets(PEAKS))
    assert dirty == [to_us(NOON + timedelta(hours=2))]
    rollups.compute()
    peaks = rollups.store.select(
        Statement("SELECT peak FROM peaks_15m WHERE dimension = 'workspace' ORDER BY bucket, version", {})
    )
    assert [peak for (peak,) in peaks] == [1] * 9 + [2] + [1] * 3


def test_a_very_full_bucket_is_computed_in_pieces_that_add_up(store: Store) -> None:
    rollups = Rollups(store, batch_rows=2)
    store.insert([call(NOON + timedelta(seconds=20 * i), credits=i, duration_us=100_000 + i % 7) for i in range(40)])
    asked = [rollups.answer(), rollups.answer("voice")]

    rollups.compute()

    assert rollups.rows("usage_15m") > 4, "one row of each cube: nothing was cut"
    assert rollups.levels(rollups.march()) <= {"1mo", "1d"}
    assert [rollups.answer(), rollups.answer("voice")] == asked


def test_concurrency_of_a_very_full_quarter_is_computed_in_pieces_that_make_the_whole(store: Store) -> None:
    rollups = Rollups(store, batch_rows=2)
    store.insert([call(NOON + timedelta(seconds=20 * i), voice=f"v{i % 3}", duration_us=50_000_000) for i in range(40)])
    asked = replace(rollups.march("voice"), metrics=("concurrency", "concurrency_average"))
    from_calls = rollups.reader.usage(asked).series

    rollups.compute()

    noon = to_us(NOON)
    one = "SELECT count() FROM peaks_15m WHERE dimension = 'all' AND bucket = '2026-03-10 12:00:00'"
    assert store.select(Statement(one, {}))[0][0] > 1, "nothing was cut"
    assert rollups.freshness.ask(lambda known: plan(asked, known)).kept, "the calls were asked again"
    assert rollups.reader.usage(asked).series == from_calls
    kept = rollups.freshness.ask(lambda known: known.versions(PEAKS, [Span(noon, noon + QUARTER_US)]))
    expected = store.select(cubes.peaks_of_calls([cubes.Reach(Span(noon, noon + QUARTER_US), noon)]))
    assert store.select(cubes.peaks_kept(kept)) == expected


@pytest.mark.parametrize("names", [0, 1, cubes.MOST_NAMES, cubes.MOST_NAMES + 1])
def test_quantities_add_up_however_many_names_they_have(store: Store, names: int) -> None:
    rollups = Rollups(store)
    units = [f"it's {i}" for i in range(names)]
    amounts = [dict.fromkeys(units[i % 5 :], 1.5 * i) for i in range(20)] + [dict.fromkeys(units, -3.0), {}]
    store.insert([call(NOON + timedelta(minutes=11 * i), quantities=one) for i, one in enumerate(amounts)])
    metrics = tuple(f"quantity.{unit}" for unit in [*units, "none"])

    rollups.compute()

    asked = replace(rollups.march(interval="total"), metrics=metrics)
    assert "calls" not in rollups.levels(asked)
    totals = {one.metric: one.total for one in rollups.reader.usage(asked).series}
    assert totals == {f"quantity.{unit}": sum(one.get(unit, 0) for one in amounts) for unit in [*units, "none"]}
