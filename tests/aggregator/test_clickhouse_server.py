"""A ClickHouse server as the store: the same numbers over HTTP, several aggregators on it, and it being away."""

import csv
import io
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pyarrow.parquet
import pytest
import redis

from aggregator import schema
from aggregator.cover import LEVELS
from aggregator.errors import StoreError
from aggregator.formats import CSV
from aggregator.freshness import Freshness, arrivals_statements
from aggregator.lease import Lease
from aggregator.query import Statement
from aggregator.rollup import Rollup
from aggregator.store import Store
from aggregator.tokens import OPERATOR
from tests.aggregator.events import NOON, call
from tests.aggregator.service import TestedService
from tests.aggregator.test_api import service as service

# Stories told elsewhere about the embedded engine, which the `engine` of this file tells again over HTTP.
from tests.aggregator.test_api import (  # noqa: F401
    test_a_long_call_is_in_flight_in_every_bucket_that_it_touches,
    test_events_recorded_over_http_are_counted_once_however_often_they_are_sent,
    test_the_csv_has_the_numbers_of_the_json,
    test_the_log_as_csv_has_every_call_without_a_cap,
    test_the_log_pages_stay_put_while_calls_arrive_and_late_ones_too,
)
from tests.aggregator.test_request_file import test_a_slice_that_is_sorted_on_the_disk_is_the_same_file  # noqa: F401
from tests.aggregator.test_rollup import rollups as rollups
from tests.aggregator.test_rollup import (  # noqa: F401
    test_late_calls_duplicates_and_corrections_heal_by_themselves,
    test_the_answer_is_the_same_from_rollups_and_from_calls,
)
from tests.aggregator.test_store import (  # noqa: F401
    test_a_higher_version_replaces_and_a_lower_one_does_not,
    test_any_text_comes_back_as_it_was,
)
from tests.clickhouse_server import ClickHouseServer, clickhouse_server
from tests.conftest import RedisServer, wait_until
from tests.processes import ServiceProcess, alongside, repeatedly, serving
from usage_meter import keys

USERS = ("default:", "reader:secret:readonly")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with clickhouse_server(tmp_path_factory.mktemp("clickhouse"), *(f"--user={user}" for user in USERS)) as server:
        yield server


@pytest.fixture(scope="module")
def engine(server: ClickHouseServer) -> Iterator[Store]:
    with Store(server.url()) as store:
        yield store


def test_services_that_start_at_once_do_not_disturb_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither on a new server, nor when one of them drops what the other is about to read."""
    known = schema.released()
    failing = "SELECT throwIf(count() = 0, 'the column is gone') FROM labels"
    following = schema.Section(len(known) + 1, (failing,))
    with clickhouse_server(tmp_path) as server, ThreadPoolExecutor(3) as threads, ExitStack() as opened:
        for future in [threads.submit(Store, server.url()) for _ in range(3)]:
            store = opened.enter_context(future.result())
        store.insert([call()])
        assert store.select(Statement("SELECT count() FROM events FINAL", {})) == [(1,)]

        later = threads.submit(Store, server.url(), [*known, following])
        wait_until(
            lambda: "brought forward once more" in caplog.text and "the column is gone" in caplog.text, "it fails"
        )
        store.write("labels", ("workspace",), [("acme",)])
        opened.enter_context(later.result())

        versions = store.select(Statement("SELECT DISTINCT version FROM schema_versions ORDER BY version", {}))
        assert [version for (version,) in versions] == list(range(1, following.version + 1))


class Sender:
    """An app that posts a call a time; `accepted` says how many were answered with 202."""

    def __init__(self) -> None:
        self.accepted = 0
        self._numbers = iter(range(10**6))

    def post(self, service: ServiceProcess, calls: int = 50) -> bool:
        now = datetime.now(UTC).isoformat()
        one = {"source": "test", "time": now, "workspace": "acme", "credits": "0.5"}
        body = [{**one, "id": f"{next(self._numbers)}"} for _ in range(calls)]
        try:
            answer = httpx.post(f"{service.page}v1/events", json=body, timeout=30)
        except httpx.HTTPError:
            return False  # not accepted: an app would send it again
        self.accepted += calls * (answer.status_code == 202)
        return answer.status_code == 202


def counted(service: ServiceProcess) -> tuple[int, float]:
    return service.total("requests", last="24h"), float(service.total("credits", last="24h"))


def is_ready(service: ServiceProcess) -> bool:
    return httpx.get(f"{service.page}readyz", timeout=30).status_code == 200


# What a server takes of a request


def test_values_that_are_longer_than_a_field_of_a_request(store: Store) -> None:
    text, numbers = "it's \\ \n é" * 60_000, list(range(10**12, 10**12 + 40_000))
    names = [f"{i}: it's `\\`" for i in range(20_000)]

    asked = Statement(
        "SELECT {p0:String}, arraySum({p1:Array(UInt64)}), 1000000000007 IN {p1:Array(UInt64)}, {p2:Array(String)}",
        {"p0": text, "p1": numbers, "p2": names},
    )

    assert store.select(asked) == [(text, sum(numbers), 1, names)]


def test_a_year_by_hours_is_one_question(service: TestedService) -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC)
    hour = next(level for level in LEVELS if level.name == "1h")
    seconds = [int((start + timedelta(hours=i)).timestamp()) for i in range(365 * 24)]
    service.store.write(
        "published", ("level", "bucket", "version", "computed"), [(hour.name, s, s << 12, s) for s in seconds]
    )

    answer = service.get("/v1/usage", OPERATOR, start="2025-01-01", end="2025-12-31", interval="hour")

    assert len(answer["buckets"]) == 8760
    assert answer["series"][0]["total"] == 0


def test_a_long_file_of_usage(service: TestedService) -> None:
    service.store.insert([call(NOON + timedelta(minutes=i), voice=f"voice {i % 20}") for i in range(500)])

    asked = "start=2026-03-09&end=2026-03-12&interval=minute&breakdown=voice&metric=requests"
    response = service.http.get(f"/v1/usage.parquet?{asked}", headers=service.headers(OPERATOR))

    found = pyarrow.parquet.read_table(io.BytesIO(response.content))
    assert found.num_rows == 4 * 24 * 60 * 20
    assert sum(found["requests"].to_pylist()) == 500


def test_days_with_gaps_are_asked_for_in_several_statements() -> None:
    days = sorted(f"{NOON - timedelta(days=2 * i):%Y%m%d}" for i in range(450))

    found = list(arrivals_statements(days))

    assert len(found) == 3
    assert all(len(one.parameters) < 1000 for one in found)
    assert len(list(arrivals_statements(f"{NOON + timedelta(days=i):%Y%m%d}" for i in range(3000)))) == 1


def test_an_older_server_is_refused(server: ClickHouseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.store.OLDEST", (99, 1))

    with pytest.raises(StoreError, match=r"the store is ClickHouse \d+\.\d+.*: must be 99.1 or newer"):
        Store(server.url())


# Files


def test_a_failure_in_the_middle_of_a_file_is_no_end(store: Store) -> None:
    failing = "concat(toString(number), throwIf(number = 900000, 'the disk is gone')::String, '\n')"
    pieces = store.stream([Statement(f"SELECT {failing} FROM numbers(1000000)", {})], CSV)
    read: list[bytes] = []

    with pytest.raises(StoreError, match="failed in the middle"):
        read.extend(pieces)

    assert sum(map(len, read)) > 1_000_000
    assert b"the disk is gone" not in b"".join(read)


def test_a_server_that_dies_in_the_middle_of_a_file_breaks_it(server: ClickHouseServer, store: Store) -> None:
    rows = Statement("SELECT concat(toString(number), '\n') FROM numbers(100000000)", {})
    pieces = store.stream([rows], CSV)
    next(pieces)

    server.kill()

    with pytest.raises(StoreError):
        deque(pieces, 0)
    server.start()


def test_a_file_of_all_calls_streams_from_the_server(service: TestedService) -> None:
    service.store.insert([call(NOON + timedelta(seconds=i), path="/" + "x" * 900) for i in range(3000)])

    response = service.http.get("/v1/requests.csv?start=2026-03-10&end=2026-03-10", headers=service.headers(OPERATOR))

    assert len(list(csv.DictReader(io.StringIO(response.text, newline="")))) == 3000


# At the start


@pytest.mark.parametrize(
    ("user", "database", "message"),
    [
        (
            "default:wrong",
            "meter",
            "does not let 'default' in: the URL must be http://user:password@host:8123/database",
        ),
        ("nobody", "meter", "does not let 'nobody' in"),
        ("", "nothere", "it has no database 'nothere': CREATE DATABASE nothere"),
        ("reader:secret", "meter", "GRANT SELECT, INSERT, ALTER, CREATE TABLE ON meter.* TO reader"),
    ],
)
def test_what_is_wrong_with_the_url_is_said(server: ClickHouseServer, user: str, database: str, message: str) -> None:
    with pytest.raises(StoreError) as raised:
        Store(server.url(user, database))

    assert message in str(raised.value)
    assert "wrong" not in str(raised.value)
    assert "secret" not in str(raised.value)


# At work


def test_a_server_that_is_away_at_the_start_and_later_costs_nothing(
    server: ClickHouseServer, store: Store, redis_server: RedisServer, tmp_path: Path
) -> None:
    sender, log = Sender(), tmp_path / "service.log"
    server.kill()
    with ExitStack() as stack:
        stack.enter_context(starts_when(server, lambda: log.exists() and "waiting for the store" in log.read_text()))
        service = stack.enter_context(serving(server.url(), redis_url=redis_server.url, log=log))
        assert is_ready(service)
        with repeatedly(lambda: sender.post(service), 0.02):
            wait_until(lambda: counted(service)[0] > 500, "calls are stored")
            server.kill()
            assert not is_ready(service)
            assert httpx.get(f"{service.page}v1/usage?last=24h", timeout=30).status_code == 503
            before = sender.accepted
            wait_until(lambda: sender.accepted > before + 500, "calls are accepted all the same")
            server.start()
            wait_until(lambda: is_ready(service), "the service is ready again")
            with server.held():
                assert not is_ready(service)

        wait_until(lambda: counted(service)[0] >= sender.accepted, "all calls are stored", 60)
        assert counted(service) == (sender.accepted, sender.accepted / 2)
    assert "Traceback" not in log.read_text()


def starts_when(server: ClickHouseServer, moment: Callable[[], bool]) -> AbstractContextManager[None]:
    def wait(_: threading.Event) -> None:
        wait_until(moment, "it is time to start the server", 60)
        server.start()

    return alongside(wait)


def test_several_aggregators_share_a_server_and_one_is_killed(
    server: ClickHouseServer, store: Store, redis_server: RedisServer
) -> None:
    sender = Sender()
    with ExitStack() as stack:
        one, other = (
            stack.enter_context(serving(server.url(), redis_url=redis_server.url, role=role))
            for role in ("all", "consumer")
        )
        with repeatedly(lambda: sender.post(one), 0.01):
            wait_until(lambda: entries_stored(one) > 5, "the first stores entries", 60)
            wait_until(lambda: entries_stored(other) > 5, "the second stores entries", 60)
            other.kill()
            before = sender.accepted
            wait_until(lambda: sender.accepted > before + 500, "calls go on being accepted")
        abandon_what_is_pending(redis_server)
        wait_until(lambda: counted(one)[0] >= sender.accepted, "all calls are stored", 60)

        assert counted(one) == (sender.accepted, sender.accepted / 2)


def entries_stored(service: ServiceProcess) -> float:
    lines = httpx.get(f"{service.page}metrics", timeout=30).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("usage_meter_entries_stored_total"))


def abandon_what_is_pending(server: RedisServer) -> None:
    """As if a minute had gone by: what a dead consumer leaves is taken over then."""
    client, stream = server.client(), keys.events(0)
    for one in client.xpending_range(stream, keys.GROUP, "-", "+", 1000):
        client.execute_command("XCLAIM", stream, keys.GROUP, one["consumer"], 0, one["message_id"], "IDLE", 120_000)  # type: ignore[no-untyped-call]


def test_of_two_aggregators_one_computes_the_rollups_and_both_read_them(
    server: ClickHouseServer, store: Store, redis_client: "redis.Redis"
) -> None:
    with Store(server.url()) as second:
        store.insert([call(NOON + timedelta(hours=i)) for i in range(30)])
        leases = [Lease(redis_client, keys.ROLLUP_LEASE, name) for name in ("one", "other")]
        workers = [
            Rollup(one, Freshness(one), margin_seconds=0, may_run=lease.held)
            for one, lease in zip((store, second), leases, strict=True)
        ]

        while sum(worker.turn() for worker in workers):
            pass

        done = [sum(worker.statistics.buckets.values()) for worker in workers]
        assert done == [done[0], 0]
        versions = second.select(Statement("SELECT uniqExact(version) > 1 FROM published GROUP BY level, bucket", {}))
        assert set(versions) == {(0,)}
        leases[0].release()
        store.insert([call(NOON)])
        assert workers[1].turn()
