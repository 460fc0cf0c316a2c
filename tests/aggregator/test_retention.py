"""How long things are kept: what is removed, what then still answers, and what comes too late for it."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

from aggregator.dead_letters import DeadLetters
from aggregator.errors import SettingsError
from aggregator.query import Statement
from aggregator.retention import ENGINES, Retention
from aggregator.settings import Settings
from aggregator.store import CHANGING_US, Store
from aggregator.tokens import OPERATOR
from tests.aggregator.events import call, entry, events_in
from tests.aggregator.service import TestedService
from usage_meter import keys

NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
OLD = TODAY - timedelta(days=40, hours=-5)


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Store]:
    """Not the shared one: rules of removal stay with the tables."""
    with Store(f"chdb://{tmp_path}") as store:
        yield store


def rules(store: Store) -> dict[str, str]:
    found = store.select(Statement("SELECT name, engine_full FROM system.tables WHERE engine_full LIKE '% TTL %'", {}))
    return {name: engine.partition(" TTL ")[2].partition(" SETTINGS ")[0] for name, engine in found}


def test_settings_are_days_and_unset_keeps_for_ever() -> None:
    settings = Settings.from_env({"AGGREGATOR_RETENTION_RAW": "30", "AGGREGATOR_RETENTION_15M": "90d"})

    assert settings.retention == Retention(raw=30, quarter_hourly=90)
    assert Settings.from_env({}).retention == Retention()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RAW": "a month"}, "AGGREGATOR_RETENTION_RAW is 'a month': must be a number of days, such as 90 or 90d"),
        ({"RAW": "1"}, "AGGREGATOR_RETENTION_RAW is 1: must be 2 to 36500 days, or unset for ever"),
        ({"RAW": "9", "15M": "9", "HOURLY": "9", "DAILY": "9"}, "AGGREGATOR_RETENTION_DAILY is 9: must be 33 to"),
        ({"RAW": "30", "15M": "20"}, "AGGREGATOR_RETENTION_15M is 20 days, and AGGREGATOR_RETENTION_RAW 30 days"),
        ({"15M": "90"}, "so set AGGREGATOR_RETENTION_RAW to at most 90, or AGGREGATOR_RETENTION_15M higher"),
    ],
)
def test_settings_that_make_no_sense_are_one_clear_sentence(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.from_env({f"AGGREGATOR_RETENTION_{name}": value for name, value in environ.items()})


def test_a_setting_is_in_force_until_it_is_removed(own_store: Store) -> None:
    own_store.keep(Retention(raw=30, quarter_hourly=90, hourly=400))
    assert rules(own_store) == {
        "events": "toStartOfDay(started) + toIntervalDay(31)",
        "usage_15m": "toStartOfDay(bucket) + toIntervalDay(91)",
        "peaks_15m": "toStartOfDay(bucket) + toIntervalDay(91)",
        "usage_1h": "toStartOfDay(bucket) + toIntervalDay(401)",
    }
    engines = {str(name): str(engine) for name, engine in own_store.select(Statement(ENGINES, {}))}
    assert not list(Retention(raw=30, quarter_hourly=90, hourly=400).statements(engines)), "nothing is to be done again"

    own_store.keep(Retention(raw=60))
    assert rules(own_store) == {"events": "toStartOfDay(started) + toIntervalDay(61)"}

    own_store.keep(Retention())
    assert rules(own_store) == {}


def test_calls_are_removed_by_days_and_the_rollups_still_answer(own_store: Store, redis_client: "redis.Redis") -> None:
    retention = Retention(raw=30)
    own_store.insert([call(OLD, credits=5), call(TODAY - timedelta(days=30), credits=7), call(NOW, credits=9)])
    service = TestedService(own_store, redis_client, retention=retention)
    while TestedService(own_store, redis_client).rollup.step():  # as it did before the day was sealed
        pass

    own_store.keep(retention)
    own_store.select(Statement("OPTIMIZE TABLE events FINAL", {}))

    found = own_store.select(Statement("SELECT toInt32(credits) FROM events FINAL ORDER BY started", {}))
    assert found == [(7,), (9,)]
    asked: dict[str, Any] = {"start": f"{OLD:%Y-%m-%d}", "metric": "credits", "interval": "total"}
    assert service.get("/v1/usage", **asked)["series"][0]["total"] == 21
    while service.rollup.step():
        pass
    assert service.get("/v1/usage", **asked)["series"][0]["total"] == 21, "a sealed bucket was computed anew"
    assert service.get("/v1/usage", **asked, tz="Asia/Kolkata")["series"][0]["total"] == 21
    refused = service.http.get("/v1/usage", params={**asked, "region": "eu"}, headers=service.headers(OPERATOR))
    assert refused.status_code == 422
    first = TODAY - timedelta(days=30)
    assert f"this is kept as single calls, and that only since {first:%Y-%m-%d}: begin there" in refused.text


def test_the_log_says_where_the_calls_begin_that_are_kept(own_store: Store, redis_client: "redis.Redis") -> None:
    """Those behind it may or may not be there, so none is listed: a page is whole, or it says that it is not."""
    first = TODAY - timedelta(days=30)
    service = TestedService(own_store, redis_client, retention=Retention(raw=30))
    own_store.insert([call(OLD, request_id="old"), call(first, request_id="first"), call(NOW, request_id="new")])

    def listed(**parameters: Any) -> tuple[list[str], str | None]:
        found = service.get("/v1/requests", **parameters)
        return [one["request_id"] for one in found["requests"]], found["kept_since"]

    assert listed(last="90d") == (["new", "first"], first.isoformat())
    berlin = first.astimezone(ZoneInfo("Europe/Berlin"))
    assert listed(last="90d", order="asc", tz="Europe/Berlin") == (["first", "new"], berlin.isoformat())
    assert listed(start=first.isoformat()) == (["new", "first"], None)
    page = service.http.get("/requests?last=90d", headers=service.headers(OPERATOR)).text
    assert f"Calls are kept since <time>{first.day} {first:%b} {first.year}</time>" in page
    page = service.http.get("/requests?last=7d", headers=service.headers(OPERATOR)).text
    assert "Calls are kept since" not in page

    file = service.http.get("/v1/requests.csv?last=90d", headers=service.headers(OPERATOR))
    assert f'filename="requests-{first:%Y%m%d}-' in file.headers["content-disposition"]
    assert [name in file.text for name in ("old", "first", "new")] == [False, True, True]


@pytest.mark.parametrize("path", ["/v1/requests", "/v1/requests.csv", "/v1/requests.arrow", "/requests"])
def test_a_range_of_which_no_call_can_be_kept_is_an_error(service_of_30_days: TestedService, path: str) -> None:
    asked = {"start": f"{OLD:%Y-%m-%d}", "end": f"{TODAY - timedelta(days=31):%Y-%m-%d}"}

    refused = service_of_30_days.http.get(path, params=asked, headers=service_of_30_days.headers(OPERATOR))

    first = TODAY - timedelta(days=30)
    assert refused.status_code == 422
    assert f"single calls are kept only since {first:%Y-%m-%d}: end later, or ask /v1/usage" in refused.text
    if path != "/requests":
        assert refused.json()["detail"][0]["loc"] == ["query", "end"]


def test_their_table_of_requests_says_so_too(service_of_30_days: TestedService) -> None:
    body = {"start_time": int(OLD.timestamp() * 1000), "end_time": int(OLD.timestamp() * 1000) + 1}
    service, path = service_of_30_days, "/v1/workspace/analytics/requests"
    service.store.insert([call(OLD, request_id="old"), call(NOW, request_id="new")])

    refused = service.http.post(path, json=body, headers=service.headers(OPERATOR))
    whole = service.http.post(path, json={"start_time": body["start_time"]}, headers=service.headers(OPERATOR))

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "end_time"]
    assert [row[0] for row in whole.json()["rows"]] == ["new"]


def test_their_calls_name_their_own_parameter_where_a_range_begins_too_early(
    service_of_30_days: TestedService,
) -> None:
    """By region, which only the calls themselves have."""
    service, start = service_of_30_days, int(OLD.timestamp() * 1000)
    service.store.insert([call(OLD), call(NOW)])
    stats: dict[str, Any] = {"start_unix": start, "end_unix": start + 86_400_000, "region": "eu"}
    table = {"start_time": start, "end_time": start + 86_400_000, "group_by": ["region"]}
    headers = service.headers(OPERATOR)

    one = service.http.get("/v1/usage/character-stats", params=stats, headers=headers)
    other = service.http.post("/v1/workspace/analytics/query/usage-by-product-over-time", json=table, headers=headers)

    assert [answer.status_code for answer in (one, other)] == [422, 422]
    assert [answer.json()["detail"][0]["loc"] for answer in (one, other)] == [
        ["query", "start_unix"],
        ["body", "start_time"],
    ]
    assert "and that only since" in one.text


@pytest.fixture
def service_of_30_days(own_store: Store, redis_client: "redis.Redis") -> TestedService:
    return TestedService(own_store, redis_client, retention=Retention(raw=30))


def test_a_call_for_a_sealed_day_is_refused_with_the_reason(own_store: Store, redis_client: "redis.Redis") -> None:
    service = TestedService(own_store, redis_client, retention=Retention(raw=30))
    late, timely = call(OLD), call(TODAY - timedelta(days=29))
    redis_client.xadd(keys.events(0), entry(late, timely))
    body = [{"id": "late", "time": OLD.isoformat(), "workspace": "acme"}]

    answer = service.http.post("/v1/events", json=body, headers=service.headers(OPERATOR))
    service.drain()

    assert answer.status_code == 422
    assert "is too late: days before " in answer.text
    assert "[0].time" in answer.text or '"time"' in answer.text
    assert own_store.select(Statement("SELECT id FROM events FINAL", {})) == [(timely.id,)]
    found: Any = redis_client.xrange(keys.dead(0))
    ((_, letter),) = found
    assert letter[b"reason"].startswith(b"starts on a day that is sealed")
    assert events_in(letter) == [late]
    assert service.consumer.statistics.dead == 1
    metrics = service.http.get("/metrics").text
    assert 'usage_meter_events_refused_total{reason="sealed"} 1.0' in metrics
    assert 'usage_meter_posts_refused_total{reason="sealed"} 1.0' in metrics
    assert 'usage_meter_posts_refused_total{reason="invalid"} 0.0' in metrics


@pytest.mark.parametrize("longer", [Retention(raw=90), Retention()], ids=["longer", "for ever"])
def test_a_day_that_lost_its_calls_stays_sealed_when_more_is_kept(
    tmp_path: Path, redis_client: "redis.Redis", longer: Retention
) -> None:
    asked: dict[str, Any] = {"start": f"{OLD:%Y-%m-%d}", "metric": "credits", "interval": "total"}
    with Store(f"chdb://{tmp_path}") as store:
        store.insert([call(OLD, credits=5), call(OLD, credits=7), call(NOW, credits=9)])
        TestedService(store, redis_client).roll_up()
        store.keep(Retention(raw=30))
        store.select(Statement("OPTIMIZE TABLE events FINAL", {}))
        store.keep(longer)
    with Store(f"chdb://{tmp_path}") as store:
        service = TestedService(store, redis_client, retention=store.keep(longer))
        assert "events" not in rules(store) or longer.raw

        redis_client.xadd(keys.events(0), entry(call(OLD, credits=2), call(TODAY - timedelta(days=29), credits=4)))
        body = [{"id": "late", "time": OLD.isoformat(), "workspace": "acme"}]
        answer = service.http.post("/v1/events", json=body, headers=service.headers(OPERATOR))
        service.drain()
        service.roll_up()

        assert "is too late: days before " in answer.text
        assert service.consumer.statistics.refused == {"sealed": 1}
        assert service.get("/v1/usage", **asked)["series"][0]["total"] == 25, "a sealed day was computed anew"
        dead = DeadLetters(redis_client, service.backlog)
        for letter in dead.all():
            dead.retry(letter, unseal=True)
        service.drain()
        service.roll_up()
        assert service.get("/v1/usage", **asked)["series"][0]["total"] == 27
        sealed = (datetime.now(UTC) + timedelta(hours=1)).date() - timedelta(days=30)  # a change may take an hour
        assert service.get("/v1/requests", last="90d")["kept_since"] == f"{sealed}T00:00:00+00:00"


def test_what_a_shorter_rule_removed_is_known_before_it_is_replaced(own_store: Store) -> None:
    """An aggregator that only answers may be started with the new settings first."""
    day_us, now_us = 86_400_000_000, time.time_ns() // 1000
    today_us, changed_us = now_us - now_us % day_us, now_us + CHANGING_US
    changed_us -= changed_us % day_us
    own_store.keep(Retention(raw=30, quarter_hourly=60))

    assert own_store.kept(Retention()).removed_us("usage_15m", now_us) == today_us - 60 * day_us
    own_store.keep(Retention(raw=90))
    shorter = own_store.keep(Retention(raw=10))

    assert shorter.sealed_us(now_us) == today_us - 10 * day_us
    longer = own_store.keep(Retention(raw=20))
    assert longer.sealed_us(now_us) == changed_us - 10 * day_us
    assert longer.sealed_us(now_us + 15 * day_us) == today_us - 5 * day_us, (
        "a day later each day, once 20 days are over"
    )
    assert longer.removed_us("usage_15m", now_us) == changed_us - 60 * day_us
    assert longer.removed_us("usage_1h", now_us) == 0


def test_calls_are_refused_some_hours_before_their_day_is_sealed() -> None:
    """So that what was accepted in time is stored, and in the rollups, when it is."""
    retention, day_us = Retention(raw=30), 86_400_000_000
    for hour in range(24):
        now_us = time.time_ns() // 1000 // day_us * day_us + hour * day_us // 24
        assert retention.refused_us(now_us) == retention.sealed_us(now_us) + (day_us if hour >= 18 else 0)
        assert retention.sealed_us(now_us) % day_us == 0
    assert Retention().refused_us(now_us) == 0
