"""What is kept of answers never makes one wrong, and answers from several statements are those from one."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest

from aggregator import answers, cubes
from aggregator.answers import Answers, KeptRows
from aggregator.buckets import QUARTER_US, to_us
from aggregator.cover import QUARTERS, Span
from aggregator.dimensions import Binder, Filter
from aggregator.errors import StoreError
from aggregator.freshness import Freshness
from aggregator.labels import Labels
from aggregator.plan import Plan, plan
from aggregator.query import OTHER, Audience, Statement, UsageAnswer, UsageQuery
from aggregator.reader import Reader
from aggregator.request_log import Cursor, RequestsQuery
from aggregator.rollup import Rollup
from aggregator.sketch import Sketch
from aggregator.store import Store
from tests.aggregator.events import NOON, call
from tests.conftest import wait_until

METRICS = ("credits", "requests", "errors", "latency_p50", "latency_p95", "ttfb_avg", "ttfb_p95", "quantity.characters")
SUMS = ("errors", "credits", "latency_avg", "quantity.characters")
START = NOON.replace(hour=0)
HOUR_OF_NOON = Span(to_us(NOON), to_us(NOON + timedelta(hours=1)))


class Watched:
    """A store, and what was asked of its rollups."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked: list[str] = []

    def select(self, statement: Statement) -> Sequence[Sequence[Any]]:
        if " FROM usage_" in statement.sql or " FROM peaks_" in statement.sql:
            self.asked.append(statement.sql)
        return self.store.select(statement)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@pytest.fixture
def watched(store: Store) -> Watched:
    return Watched(store)


@pytest.fixture
def reader(watched: Watched) -> Reader:
    return Reader(watched, lambda: 0)  # type: ignore[arg-type]  # a store, watched


def day(*breakdown: str, workspace: str = "acme", **options: Any) -> UsageQuery:
    options = {"metrics": METRICS, "interval": "hour", "filters": (Filter("kind", ("request",)),)} | options
    start, end = to_us(START), to_us(START + timedelta(days=1))
    return UsageQuery(start, end, UTC, breakdown=breakdown, audience=Audience(workspace), **options)


def numbers(answer: UsageAnswer) -> list[Any]:
    return [(one.metric, one.key, one.values, one.total) for one in answer.series]


def some_calls(number: int = 60) -> list[Any]:
    """Some twenty minutes apart, by six voices."""
    return [
        call(
            START + timedelta(minutes=23 * i),
            credits=i,
            voice=f"voice{i * i % 6}",
            product="tts",
            groups=("red", "green", "blue")[: i % 4],
            outcome="ok" if i % 5 else "server_error",
            duration_us=1000 * i * i,
            ttfb_us=i * 100 if i % 2 else None,
            quantities={"characters": i / 4},
        )
        for i in range(number)
    ]


@pytest.fixture
def worker(store: Store) -> Rollup:
    return Rollup(store, Freshness(store), margin_seconds=0, grace_seconds=0)


def roll_up(worker: Rollup) -> None:
    while worker.step():
        pass


def test_a_question_about_rollups_is_put_to_the_store_once(watched: Watched, reader: Reader, worker: Rollup) -> None:
    watched.store.insert(some_calls())
    roll_up(worker)

    first = numbers(reader.usage(day("voice")))
    asked = len(watched.asked)
    again = numbers(reader.usage(day("voice")))

    assert asked
    assert len(watched.asked) == asked
    assert again == first


@pytest.mark.parametrize("metrics", [METRICS, ("concurrency", "concurrency_average", "requests")])
def test_what_is_kept_does_not_hide_a_late_call_or_a_correction(
    watched: Watched, reader: Reader, worker: Rollup, metrics: tuple[str, ...]
) -> None:
    calls = some_calls()
    watched.store.insert(calls)
    roll_up(worker)
    fresh = Reader(watched.store, lambda: 0)
    answered = [numbers(reader.usage(day(metrics=metrics)))]

    late = call(START + timedelta(hours=3, minutes=1), credits=1000, duration_us=7_000_000)
    corrected = msgspec.structs.replace(calls[9], version=2, credits_micro=0, duration_us=90_000_000)
    for changed in ([late], [corrected]):
        watched.store.insert(changed)
        answered.append(numbers(reader.usage(day(metrics=metrics))))
        assert answered[-1] == numbers(fresh.usage(day(metrics=metrics)))
        roll_up(worker)
        assert numbers(reader.usage(day(metrics=metrics))) == answered[-1]

    assert answered[0] != answered[1] != answered[2]


def test_what_is_kept_is_one_workspaces(watched: Watched, reader: Reader, worker: Rollup) -> None:
    watched.store.insert([*some_calls(), call(credits=7, workspace="other")])
    roll_up(worker)

    ours = reader.usage(day(metrics=("credits",), interval="total"))
    theirs = reader.usage(day(metrics=("credits",), interval="total", workspace="other"))

    assert (ours.series[0].total, theirs.series[0].total) == (sum(range(60)), 7)


@pytest.mark.parametrize("top", [1, 2, 20])
@pytest.mark.parametrize("metrics", [METRICS, SUMS, ("latency_avg",)])
@pytest.mark.parametrize("breakdown", [("voice",), ("group",), ("voice", "product")])
def test_ranked_here_or_by_the_store_the_series_are_the_same(
    store: Store, worker: Rollup, breakdown: tuple[str, ...], metrics: tuple[str, ...], top: int
) -> None:
    """Half of the day from rollups, and half from calls, some of which come into an hour that has rollups too."""
    calls = some_calls()
    store.insert(calls[:25])
    roll_up(worker)
    store.insert(calls[25:])
    store.insert([call(START + timedelta(hours=2, minutes=50), credits=3, voice="voice1", product="tts")])
    freshness = Freshness(store)
    query = day(*breakdown, metrics=metrics, top=top)
    planned = freshness.ask(lambda known: plan(query, known))
    assert {one.level for one in planned.with_calls} >= {None, QUARTERS}

    here, ranked_here = Answers(store, lambda _: None).of(planned, 0)
    for most_keys in (0, 5000):
        by_store, ranked_by_store = Answers(store, lambda _: None, most_keys, most_cells=3).of(planned, 0)

        assert numbers(here) == numbers(by_store)
        assert [tuple(key) for key in ranked_here] == [tuple(key) for key in ranked_by_store]


def test_a_breakdown_of_few_keys_is_one_look_at_each_table(watched: Watched, reader: Reader, worker: Rollup) -> None:
    """Also where some of them have no series of their own."""
    watched.store.insert(some_calls())
    roll_up(worker)
    watched.asked.clear()

    answer = reader.usage(day("voice", metrics=("credits", "errors"), top=2))

    assert [one.key["voice"] for one in answer.series if one.metric == "credits"][-1] == OTHER
    assert sum(one.total or 0 for one in answer.series if one.metric == "credits") == sum(range(60))
    assert len(watched.asked) == 1


def of_two_tables(store: Store, worker: Rollup) -> Plan:
    """Half of the day from rollups, half from calls."""
    calls = some_calls()
    store.insert(calls[:25])
    roll_up(worker)
    store.insert(calls[26:])
    planned = Freshness(store).ask(lambda known: plan(day("voice", metrics=("credits",), interval="total"), known))
    assert len({one.level for one in planned.with_calls}) >= 2
    return planned


def test_two_tables_are_asked_at_once(store: Store, worker: Rollup) -> None:
    """Each of the first two waits until the other is there: one after the other, they would wait in vain."""
    planned = of_two_tables(store, worker)
    both, asked = threading.Barrier(2), []

    class Waiting(Watched):
        def select(self, statement: Statement) -> Sequence[Sequence[Any]]:
            asked.append(statement)
            if len(asked) <= 2:
                both.wait(timeout=60)
            return super().select(statement)

    answer, _ = Answers(Waiting(store), lambda _: None).of(planned, 0)  # type: ignore[arg-type]  # a store, watched

    assert sum(one.total or 0 for one in answer.series) == sum(range(60)) - 25


def test_a_table_that_fails_beside_another_fails_the_answer(store: Store, worker: Rollup) -> None:
    planned = of_two_tables(store, worker)

    class Failing(Watched):
        def select(self, statement: Statement) -> Sequence[Sequence[Any]]:
            if " FROM events " in statement.sql:
                raise StoreError("the disk is gone")
            return super().select(statement)

    with pytest.raises(StoreError, match="the disk is gone"):
        Answers(Failing(store), lambda _: None).of(planned, 0)  # type: ignore[arg-type]  # a store, watched


def test_many_versions_are_told_apart_each_in_its_bucket(store: Store, worker: Rollup) -> None:
    """Each quarter of an hour computed twice, then by itself; some are left out, so that only their older rows are."""
    store.insert(some_calls())
    quarters = [to_us(START) + i * QUARTER_US for i in range(46)]
    worker.compute(QUARTERS, quarters)
    for quarter in quarters:
        worker.compute(QUARTERS, [quarter])
    newest = dict(published(store, quarters))
    empty = [quarters[-1] + i * QUARTER_US for i in range(1, cubes.MAX_LISTED)]  # so many that they are told otherwise

    for left_out in ([], quarters[:1], quarters[5:9], quarters[::3], quarters[-40:], quarters[1:-1]):
        for further in ([], empty, [quarters[-1] + 2**45], [*empty, empty[-1] + 2**43]):
            wanted = [quarter for quarter in quarters if quarter not in left_out]
            versions = [(one, newest[one]) for one in wanted] + [(one, 1) for one in further]
            found = rows_of(store, versions)
            assert found == {(one, newest[one]) for one in wanted} & rows_of(store, None)


def published(store: Store, quarters: Sequence[int]) -> Sequence[tuple[int, int]]:
    spans = [Span(quarters[0], quarters[-1] + QUARTER_US)]
    return Freshness(store).ask(lambda known: known.versions(QUARTERS, spans))


def rows_of(store: Store, versions: Sequence[tuple[int, int]] | None) -> set[tuple[int, int]]:
    bind = Binder()
    where = cubes.published(versions, bind) if versions is not None else "1"
    sql = f"SELECT DISTINCT toUnixTimestamp(bucket), version FROM usage_15m WHERE {where}"
    return {(int(second) * 1_000_000, version) for second, version in store.select(Statement(sql, bind.parameters))}


def test_sketches_merge_as_the_engine_does_it(store: Store) -> None:
    state = "quantilesExactWeightedState(0.5, 0.95, 0.99)(toInt16(number * number % 700 - 1), 1)"

    def sketch(first: int, count: int) -> Sketch:
        sql = f"SELECT finalizeAggregation({state} AS s), hex(s) FROM numbers({first}, {count})"
        return Sketch(*store.select(Statement(sql, {}))[0])

    for middle in (0, 1, 17, 200, 999, 1000):
        whole = sketch(0, 1000)
        merged = sketch(0, middle).merged(sketch(middle, 1000 - middle))
        assert list(merged.bins) == list(whole.bins)
        assert list(merged.merged(sketch(0, 0)).bins) == list(whole.bins)


def test_a_sketch_without_its_state_is_not_merged_in_silence() -> None:
    with pytest.raises(ValueError, match="without its state"):
        Sketch([1, 2, 3]).merged(Sketch([1, 2, 3], "00"))


class Numbered:
    """A store in which every statement gives its own text."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def select(self, statement: Statement) -> list[tuple[str]]:
        self.asked.append(statement.sql)
        return [(statement.sql,)]


def test_what_was_asked_longest_ago_makes_room() -> None:
    store = Numbered()
    kept = KeptRows(store, most_bytes=3 * 128)  # type: ignore[arg-type]  # all that is needed of a store

    for sql in ("a", "b", "c", "a", "d", "a", "b"):
        assert kept.select(Statement(sql, {})) == [(sql,)]

    assert store.asked == ["a", "b", "c", "d", "b"]


def test_nothing_is_kept_for_ever() -> None:
    store, now = Numbered(), [0.0]
    kept = KeptRows(store, clock=lambda: now[0])  # type: ignore[arg-type]  # all that is needed of a store

    for now[0] in (0, answers.KEPT_SECONDS - 1, answers.KEPT_SECONDS + 1):
        kept.select(Statement("a", {}))

    assert store.asked == ["a", "a"]


def test_a_call_in_the_newest_minutes_is_there_at_once(store: Store, reader: Reader, worker: Rollup) -> None:
    store.insert(some_calls())
    roll_up(worker)
    now = datetime.now(UTC).replace(microsecond=0)
    query = UsageQuery(to_us(now - timedelta(hours=1)), to_us(now) + 1, UTC, interval="total", metrics=("requests",))
    assert reader.usage(query).series[0].total == 0

    store.insert([call(now)])

    assert reader.usage(query).series[0].total == 1


def test_a_label_shows_as_soon_as_it_is_set_changed_or_taken_away(store: Store, reader: Reader) -> None:
    store.insert([call(voice="v1", credits=2), call(voice="v2", credits=1)])
    clock = iter(range(1, 9))
    labels = Labels(store, lambda: next(clock))

    def shown() -> list[str]:
        return [one.label for one in reader.usage(day("voice", metrics=("credits",))).series]

    seen = [shown()]
    for changed in ({"v1": "Amy"}, {"v1": "Ann", "v2": "Ben"}, {"v1": ""}):
        labels.put("acme", "voice", changed)
        seen += [shown(), shown()]
    labels.put("other", "voice", {"v1": "Theirs"})

    assert seen[::2] == [["v1", "v2"], ["Amy", "v2"], ["Ann", "Ben"], ["v1", "Ben"]]
    assert seen[1::2] == seen[2::2]
    assert shown() == ["v1", "Ben"]


class Slow:
    """A store that waits, once it was asked, until it may answer."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Semaphore(0)
        self.looks = 0

    def select(self, statement: Statement) -> Sequence[Sequence[Any]]:
        if "system.parts" in statement.sql:
            self.looks += 1
            self.asked.release()
            assert self.may_answer.acquire(timeout=30)
        return self.store.select(statement)


def test_those_who_wait_share_a_look_at_the_store_that_began_after_they_came(store: Store) -> None:
    """The first look began before the call was there, and before the others came: it must not answer them."""
    slow = Slow(store)
    freshness = Freshness(slow)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(freshness.ask, lambda known: None)
        assert slow.asked.acquire(timeout=30)
        store.insert([call()])
        others = [threads.submit(freshness.ask, lambda known: known.has_calls(HOUR_OF_NOON)) for _ in range(3)]
        wait_until(lambda: all(one.running() for one in others), "the others have come")
        for _ in range(4):
            slow.may_answer.release()
        first.result()
        assert [one.result() for one in others] == [True] * 3

    assert 2 <= slow.looks < 4


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("voice", ["voice1", "voice4", "nobody's"])
def test_page_by_page_the_log_is_what_it_is_as_a_whole(store: Store, voice: str, descending: bool) -> None:
    """However near to the page's edge its calls are looked for first: in an hour, or in a month."""
    calls = [
        call(START - timedelta(days=i * i % 31, seconds=i), voice=f"voice{min(4, i % 97)}", credits=i)
        for i in range(900)
    ]
    store.insert([*calls, *calls[:50]])
    reader = Reader(store, lambda: 0)
    expected = sorted(((one.started_us, one.id) for one in calls if one.voice == voice), reverse=descending)

    seen: list[tuple[int, bytes]] = []
    query = RequestsQuery(0, to_us(START) + 1, filters=(Filter("voice", (voice,)),), limit=7, descending=descending)
    while True:
        page = reader.requests(query)
        seen += [(to_us(datetime.fromisoformat(one["time"])), UUID(one["id"]).bytes) for one in page.requests]
        if page.next_cursor is None:
            break
        query = replace(query, cursor=Cursor.parse(page.next_cursor))

    assert seen == expected
