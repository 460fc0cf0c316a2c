"""What OpenMeter's suite expects of a meter (told again, in ours): each from calls and from rollups."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis

from aggregator.store import Store
from aggregator.tokens import OPERATOR
from tests.aggregator.events import NOON, call
from tests.aggregator.service import TestedService


@pytest.fixture(params=["calls", "rollups"])
def service(store: Store, redis_client: "redis.Redis", request: pytest.FixtureRequest) -> Iterator[TestedService]:
    tested = TestedService(store, redis_client, secret="")
    tested.uses_rollups = request.param == "rollups"  # type: ignore[attr-defined]
    with tested.http:
        yield tested


def store(service: TestedService, events: list[Any]) -> None:
    service.store.insert(events)
    if service.uses_rollups:  # type: ignore[attr-defined]
        service.roll_up()


def values(service: TestedService, **parameters: Any) -> list[Any]:
    """Of the only series, without the buckets in which nothing happened."""
    return [value for value in service.get("/v1/usage", OPERATOR, **parameters)["series"][0]["values"] if value]


def test_a_thousand_times_the_same_event_is_one(service: TestedService) -> None:
    one = call(NOON, credits=100)
    store(service, [one] * 1000)

    assert values(service, start="2026-03-10", end="2026-03-10", metric="credits", interval="day") == [100]


def test_the_same_id_at_another_time_is_another_call(service: TestedService) -> None:
    one = call(NOON, credits=100)
    store(service, [one, call(NOON + timedelta(seconds=1), id=one.id, credits=20), one])

    assert values(service, start="2026-03-10", end="2026-03-10", metric="credits", interval="day") == [120]


def test_quantities_are_added_as_numbers_and_what_has_none_counts_as_a_call(service: TestedService) -> None:
    for given in ({"tokens": 123.0}, {"tokens": 0.4567890123456789}, {}):
        store(service, [call(NOON, quantities=given)])
    asked = {"start": "2026-03-10", "end": "2026-03-10", "interval": "day"}

    assert values(service, **asked, metric="quantity.tokens") == [123.45678901234568]
    assert values(service, **asked, metric="requests") == [3]


@pytest.mark.parametrize(("metric", "nothing"), [("requests", 0), ("quantity.tokens", 0), ("latency_p95", None)])
def test_a_range_without_calls_has_sums_of_nought_and_no_averages(
    service: TestedService, metric: str, nothing: int | None
) -> None:
    store(service, [call(NOON)])

    found = service.get("/v1/usage", OPERATOR, start="2026-03-11", end="2026-03-12", metric=metric)["series"]

    assert [(one["values"], one["total"]) for one in found] == [([nothing, nothing], nothing)]


def test_the_query_table(service: TestedService) -> None:
    times = [NOON, NOON + timedelta(minutes=1), NOON + timedelta(hours=1), NOON + timedelta(days=1)]
    store(service, [call(at, credits=100, user=f"customer-{i}") for i in range(5) for at in times])
    asked = {"start": NOON.isoformat(), "end": (NOON + timedelta(days=1, minutes=1)).isoformat()}

    assert values(service, **asked, interval="total") == [2000]
    assert values(service, **asked, interval="minute") == [500, 500, 500, 500]
    assert values(service, **asked, interval="hour") == [1000, 500, 500]
    assert values(service, **asked, interval="day") == [1500, 500]
    per_user = service.get("/v1/usage", OPERATOR, **asked, interval="total", breakdown="user")["series"]
    assert {one["key"]["user"]: one["total"] for one in per_user} == {f"customer-{i}": 400 for i in range(5)}
    text = service.http.get("/v1/usage.csv", params={**asked, "interval": "day", "breakdown": "user"}).text
    assert f"{NOON.date()}T12:00:00+00:00,customer-0,300" in text.splitlines()


@pytest.mark.parametrize(("first", "last"), [("2025-03-06", "2025-03-12"), ("2025-10-30", "2025-11-05")])
def test_days_in_los_angeles_are_contiguous_where_the_clocks_change(
    service: TestedService, first: str, last: str
) -> None:
    zone = ZoneInfo("America/Los_Angeles")
    begins = datetime.fromisoformat(first).replace(tzinfo=zone)
    store(service, [call(begins + timedelta(days=i, hours=23, minutes=59), credits=i + 1) for i in range(7)])

    found = service.get("/v1/usage", OPERATOR, start=first, end=last, tz=zone.key, interval="day")

    assert [datetime.fromisoformat(text).astimezone(zone).hour for text in found["buckets"]] == [0] * 7
    assert found["series"][0]["values"] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 60, [1]), (1, 60, []), (0, 0.001, [1]), (-60, 0, []), (-60, 60, [1]), (0, 120, [1, 2]), (60, 61, [2])],
)
def test_a_range_holds_its_start_and_not_its_end(
    service: TestedService, start: float, end: float, expected: list[int]
) -> None:
    store(service, [call(NOON, credits=1), call(NOON + timedelta(minutes=1), credits=2)])
    edges = {"start": NOON + timedelta(seconds=start), "end": NOON + timedelta(seconds=end)}

    assert values(service, **{name: at.isoformat() for name, at in edges.items()}, interval="minute") == expected


def test_credits_are_added_exactly(service: TestedService) -> None:
    store(service, [call(NOON, credits="123"), call(NOON, credits="0.456789"), call(NOON, credits=0)])
    text = service.http.get("/v1/usage", params={"start": "2026-03-10", "end": "2026-03-10"}).text

    assert '"values":[123.456789]' in text
