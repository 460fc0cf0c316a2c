"""`usage-meter dead retry --unseal`: calls that came too late for their day are added to its rollups, each once."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from aggregator.backlog import Backlog
from aggregator.dead_letters import DeadLetters
from aggregator.errors import StoreError
from aggregator.freshness import Freshness
from aggregator.query import Statement
from aggregator.retention import Retention
from aggregator.rollup import Rollup
from aggregator.store import Store
from aggregator.tokens import OPERATOR
from aggregator.verify import Verification
from tests.aggregator.events import call, entry, us
from tests.aggregator.older_release import without_whole_workspaces
from tests.aggregator.service import TestedService
from usage_meter import keys
from usage_meter.event import UsageEvent

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
OLD = TODAY - timedelta(days=70, hours=-5)
KEPT = Retention(raw=30)


class Archive:
    """A service whose old day is sealed: 30 calls at 5:00 and 6:00, rolled up before their own rows went."""

    def __init__(self, store: Store, client: "redis.Redis", retention: Retention, gone: bool = True) -> None:
        self.client, self.store, self.retention = client, store, retention
        hours = [OLD + timedelta(hours=number % 2, minutes=number) for number in range(30)]
        self.calls = [call(at, credits="0.5", voice="en", quantities={"characters": 10.0}) for at in hours]
        store.insert([*self.calls, call(TODAY, credits=9)])
        TestedService(store, client).roll_up()
        self.service = TestedService(store, client, retention=retention)
        if gone:
            store.keep(retention)
            store.select(Statement("OPTIMIZE TABLE events FINAL", {}))
            assert store.select(Statement("SELECT count() FROM events", {})) == [(1,)]

    def send(self, *events: UsageEvent) -> None:
        self.client.xadd(keys.events(0), entry(*events))
        self.service.drain()

    def letters(self) -> list[str]:
        return [letter.reason for letter in DeadLetters(self.client, Backlog(self.client)).all()]

    def let_in(self) -> None:
        dead = DeadLetters(self.client, Backlog(self.client))
        for letter in dead.all():
            dead.retry(letter, unseal=True)
        self.service.drain()
        self.service.roll_up()

    def usage(self, **asked: Any) -> Any:
        days = {"start": f"{OLD - timedelta(days=1):%Y-%m-%d}", "end": f"{OLD + timedelta(days=1):%Y-%m-%d}"}
        return self.service.get("/v1/usage", **{"interval": "total", **days, **asked})

    def total(self, metric: str, **asked: Any) -> Any:
        series = self.usage(metric=metric, **asked)["series"]
        return series[0]["total"] if series else 0


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Store]:
    """Not the shared one: rules of removal stay with the tables."""
    with Store(f"chdb://{tmp_path}") as store:
        yield store


@pytest.fixture
def archive(own_store: Store, redis_client: "redis.Redis") -> Archive:
    return Archive(own_store, redis_client, KEPT)


@pytest.fixture
def sealed(own_store: Store, redis_client: "redis.Redis") -> Archive:
    """The same while the calls are still there: quicker."""
    return Archive(own_store, redis_client, KEPT, gone=False)


def test_what_came_too_late_is_added_to_every_answer_of_its_day(archive: Archive) -> None:
    late = [
        call(OLD, credits="2.5", voice="en", quantities={"characters": 7.0}, duration_us=9_000_000, status=500,
             outcome="server_error"),
        call(OLD + timedelta(hours=9), credits=4, voice="fr", user="bob", duration_us=1000),
    ]  # fmt: skip
    assert archive.total("credits") == 15
    assert archive.total("latency_p99") < 1000

    archive.send(*late)
    assert archive.total("credits") == 15, "it is refused at first"
    archive.let_in()

    assert archive.letters() == []
    assert archive.total("credits") == 21.5
    assert archive.total("requests") == 32
    assert archive.total("errors") == archive.total("errors", voice="en") == archive.total("errors", user="alice") == 1
    assert archive.total("quantity.characters") == 307
    assert archive.total("latency_p99") == pytest.approx(9000, rel=0.01)
    assert archive.total("latency_p50") == pytest.approx(250, rel=0.01)
    for interval in ("hour", "day", "month", "year"):
        assert archive.total("credits", interval=interval) == 21.5
    yesterday = f"{TODAY - timedelta(days=1):%Y-%m-%d}"
    assert archive.total("credits", start=f"{OLD:%Y-%m}-01", end=yesterday, interval="month") == 21.5
    by_voice = archive.usage(metric="credits", breakdown="voice")["series"]
    assert {one["key"]["voice"]: one["total"] for one in by_voice} == {"en": 17.5, "fr": 4}
    assert archive.total("credits", user="bob") == 4
    assert archive.total("credits", tz="Asia/Kolkata") == 21.5
    hours = archive.usage(metric="requests", interval="hour")["series"][0]["values"]
    assert [value for value in hours if value] == [16, 15, 1]


def test_what_came_too_late_is_added_to_rollups_of_an_older_release(archive: Archive) -> None:
    without_whole_workspaces(archive.store)
    archive.service = TestedService(archive.store, archive.client, retention=KEPT)

    archive.send(call(OLD, credits="2.5", voice="en"), call(OLD + timedelta(hours=9), credits=4))
    archive.let_in()

    for interval in ("hour", "day", "month", "year"):
        assert archive.total("credits", interval=interval) == 21.5
    whole = {"start": f"{OLD:%Y-%m}-01", "end": f"{TODAY - timedelta(days=1):%Y-%m-%d}"}
    assert archive.total("requests", interval="month", **whole) == 32


def test_nothing_is_added_twice(archive: Archive) -> None:
    late = call(OLD, credits=2)
    archive.send(late, late)
    archive.send(late)
    archive.let_in()
    assert archive.total("credits") == 17

    archive.send(late)
    archive.let_in()
    archive.send(late, another := call(OLD, credits=3))
    archive.let_in()

    assert archive.total("credits") == 20
    assert archive.total("requests") == 32
    rows = archive.store.select(Statement("SELECT count() FROM unsealed", {}))
    assert rows == [(0,)], "calls are not kept longer than they are needed"
    assert another.id != late.id


@pytest.mark.parametrize(
    ("fatal", "after"), [("execute INSERT", True), ("write published", False), ("write published", True)]
)
def test_a_crash_between_two_steps_neither_loses_nor_doubles(sealed: Archive, fatal: str, after: bool) -> None:
    archive = sealed
    archive.send(call(OLD, credits=2))
    dead = DeadLetters(archive.client, Backlog(archive.client))
    for letter in dead.all():
        dead.retry(letter, unseal=True)
    archive.service.drain()
    dying = Rollup(Dying(archive.store, fatal, after), Freshness(archive.store), margin_seconds=0,
                   removed_us=lambda table: us(OLD + timedelta(days=1)) if table == "events" else 0)  # fmt: skip
    with pytest.raises(StoreError, match="dies here"):
        dying.step()

    archive.send(call(OLD, credits=3))
    archive.let_in()

    assert archive.total("credits") == 20
    assert archive.total("requests") == 32


class Dying:
    """A store that dies before, or after, the first statement of a kind."""

    def __init__(self, store: Store, fatal: str, after: bool) -> None:
        self.select = store.select
        self._store, self._fatal, self._after = store, fatal, after

    def write(self, table: str, columns: Any, rows: Any) -> None:
        if rows:
            self._do(f"write {table}", lambda: self._store.write(table, columns, rows))

    def execute(self, statement: Statement, settings: dict[str, int]) -> None:
        self._do(f"execute {statement.sql.split()[0]}", lambda: self._store.execute(statement, settings))

    def _do(self, name: str, act: Callable[[], None]) -> None:
        if name != self._fatal:
            return act()
        if self._after:
            act()
        raise StoreError("dies here")


def test_what_its_day_still_has_is_not_added_again(own_store: Store, redis_client: "redis.Redis") -> None:
    archive = Archive(own_store, redis_client, KEPT, gone=False)
    archive.send(archive.calls[0], call(OLD, credits=2))
    archive.let_in()
    assert archive.total("credits") == 17

    own_store.keep(KEPT)
    own_store.select(Statement("OPTIMIZE TABLE events FINAL", {}))
    archive.send(archive.calls[0])
    archive.let_in()

    assert archive.total("credits") == 17
    assert archive.total("requests") == 31


def test_a_correction_is_refused_with_the_reason(sealed: Archive) -> None:
    sealed.send(call(OLD, credits=2, version=2))
    sealed.let_in()

    assert sealed.letters() == [
        "is a correction for a day that is sealed: what it corrects may be a part of the rollups for good"
    ]
    assert sealed.total("credits") == 15


def test_where_finer_rollups_are_gone_too_the_coarser_ones_take_it_in(
    own_store: Store, redis_client: "redis.Redis"
) -> None:
    archive = Archive(own_store, redis_client, Retention(raw=30, quarter_hourly=40, hourly=50))
    for table in ("usage_15m", "usage_1h", "peaks_15m"):
        own_store.select(Statement(f"OPTIMIZE TABLE {table} FINAL", {}))
    for credits in (2, 3):
        archive.send(call(OLD, credits=credits))
        archive.let_in()

    for interval in ("day", "month", "total"):
        assert archive.total("credits", interval=interval) == 20
    refused = archive.service.http.get(
        "/v1/usage", params={"start": f"{OLD:%Y-%m-%d}", "tz": "Asia/Kolkata"},
        headers=archive.service.headers(OPERATOR),
    )  # fmt: skip
    assert refused.status_code == 422, "no smaller number"


def test_what_is_older_than_everything_that_is_kept_stays_a_letter(
    own_store: Store, redis_client: "redis.Redis"
) -> None:
    every = Retention(raw=30, quarter_hourly=30, hourly=30, daily=40, monthly=40)
    archive = Archive(own_store, redis_client, every)
    archive.send(call(OLD))
    archive.let_in()

    assert archive.letters() == ["starts before all that is kept (AGGREGATOR_RETENTION_MONTHLY)"]


def test_time_in_flight_is_added_and_the_peak_is_at_least_what_it_was(sealed: Archive) -> None:
    asked = {"interval": "day", "start": f"{OLD:%Y-%m-%d}", "end": f"{OLD:%Y-%m-%d}"}
    before = sealed.usage(metric="concurrency_average", **asked)["series"][0]["values"][0]
    sealed.send(*(call(OLD + timedelta(hours=3), duration_us=3_600_000_000) for _ in range(3)))
    sealed.let_in()

    (average,) = sealed.usage(metric="concurrency_average", **asked)["series"][0]["values"]
    assert average == pytest.approx(before + 3 * 3600 / 86_400)
    assert sealed.usage(metric="concurrency", **asked)["series"][0]["values"] == [3]


def test_what_is_not_sealed_goes_the_ordinary_way(sealed: Archive) -> None:
    timely = call(TODAY - timedelta(days=20), credits=2)
    sealed.client.xadd(keys.events(0), {**entry(call(OLD), timely), b"unseal": b"1"})
    sealed.service.drain()

    assert sealed.store.select(Statement("SELECT count() FROM events WHERE credits = 2", {})) == [(1,)]
    assert sealed.store.select(Statement("SELECT count() FROM unsealed", {})) == [(1,)]


def test_verify_stays_content(archive: Archive) -> None:
    archive.send(call(OLD), call(OLD + timedelta(days=1)))
    archive.let_in()

    sealed_us = KEPT.sealed_us(us(datetime.now(UTC)))
    found = Verification(archive.store, Freshness(archive.store), sealed_us)
    assert [one for month in found.months() for one in found.differences(month)] == []


def test_another_aggregator_that_took_over_is_not_doubled(sealed: Archive) -> None:
    sealed.send(call(OLD, credits=2))
    dead = DeadLetters(sealed.client, Backlog(sealed.client))
    for letter in dead.all():
        dead.retry(letter, unseal=True)
    sealed.service.drain()
    answers = iter([True, False])
    slow = Rollup(sealed.store, Freshness(sealed.store), margin_seconds=0, may_add=lambda: next(answers),
                  removed_us=lambda table: us(OLD + timedelta(days=1)) if table == "events" else 0)  # fmt: skip

    slow.step()
    assert sealed.total("credits") == 15
    sealed.service.roll_up()

    assert sealed.total("credits") == 17
