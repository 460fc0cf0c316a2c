"""`compare=previous`: the period before, beside the one that is asked for."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from aggregator.store import Store
from aggregator.tokens import OPERATOR
from tests.aggregator.events import NOON, call
from tests.aggregator.service import TestedService


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> Iterator[TestedService]:
    tested = TestedService(store, redis_client, secret="")
    with tested.http:
        yield tested


def compared(service: TestedService, **parameters: Any) -> dict[str, Any]:
    answer: dict[str, Any] = service.get("/v1/usage", OPERATOR, compare="previous", **parameters)
    return answer


@pytest.mark.parametrize(
    ("start", "end", "zone", "previous"),
    [
        ("2026-03-10", "2026-03-10", "UTC", ("2026-03-09T00:00:00+00:00", "2026-03-10T00:00:00+00:00")),
        ("2026-03-01", "2026-03-31", "UTC", ("2026-02-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00")),
        ("2026-01-01", "2026-12-31", "UTC", ("2025-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00")),
        # The clocks went forward on the 8th: the week before is a week of local days.
        (
            "2026-03-05", "2026-03-11", "America/Los_Angeles",
            ("2026-02-26T00:00:00-08:00", "2026-03-05T00:00:00-08:00"),
        ),
        (
            "2026-03-09", "2026-03-15", "America/Los_Angeles",
            ("2026-03-02T00:00:00-08:00", "2026-03-09T00:00:00-07:00"),
        ),
    ],
)  # fmt: skip
def test_the_period_before_is_as_long_by_the_calendar(
    service: TestedService, start: str, end: str, zone: str, previous: tuple[str, str]
) -> None:
    found = compared(service, start=start, end=end, tz=zone)["previous"]

    assert (found["start"], found["end"]) == previous
    assert len(found["series"][0]["values"]) == len(found["buckets"])


def test_it_has_the_same_series_and_the_rest_in_one(service: TestedService) -> None:
    day = timedelta(days=1)
    service.store.insert([call(NOON, voice="amy", credits=5), call(NOON, voice="ben", credits=1)])
    service.store.insert([call(NOON - day, voice="amy", credits=2), call(NOON - day, voice="cleo", credits=9)])

    found = compared(service, start="2026-03-10", end="2026-03-10", breakdown="voice", top=1)

    assert {one["key"]["voice"]: one["total"] for one in found["series"]} == {"amy": 5, "__other__": 1}
    assert {one["key"]["voice"]: one["total"] for one in found["previous"]["series"]} == {"amy": 2, "__other__": 9}


def test_before_1970_there_is_none(service: TestedService) -> None:
    assert compared(service, start="1970-01-01", end="1970-02-01", interval="month")["previous"] is None


def test_a_file_does_not_have_it_and_says_so(service: TestedService) -> None:
    refused = service.http.get("/v1/usage.csv", params={"compare": "previous"})

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["query", "compare"]


def test_without_it_nothing_is_compared(service: TestedService) -> None:
    service.store.insert([call(datetime.now(UTC))])

    assert "previous" not in service.get("/v1/usage", OPERATOR)
