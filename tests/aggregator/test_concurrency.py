"""Concurrency, from calls and from what is kept of it: ElevenLabs' documented examples, and what is not kept."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import redis

from aggregator.store import Store
from aggregator.tokens import OPERATOR
from tests.aggregator.events import NOON, call
from tests.aggregator.service import TestedService

SECOND_US = 1_000_000


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> Iterator[TestedService]:
    tested = TestedService(store, redis_client, secret="")
    with tested.http:
        yield tested


def concurrency(service: TestedService, **parameters: Any) -> tuple[Any, Any]:
    """The peak and the average of the only bucket."""
    names = ["concurrency", "concurrency_average"]
    found = service.get("/v1/usage", OPERATOR, metric=names, **parameters)["series"]
    return tuple(one["values"][0] for one in found)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ([call(NOON, duration_us=3 * SECOND_US) for _ in range(180)], (180, 9.0)),
        (
            [call(NOON + timedelta(seconds=i / 3), duration_us=SECOND_US) for i in range(180)],
            (3, pytest.approx(3, 0.01)),
        ),
    ],
    ids=["all at once", "one after another"],
)
@pytest.mark.parametrize("rolled_up", [False, True])
def test_elevenlabs_examples(service: TestedService, calls: list[Any], expected: Any, rolled_up: bool) -> None:
    service.store.insert(calls)
    if rolled_up:
        service.roll_up()
    minute, hour = NOON + timedelta(minutes=1), NOON + timedelta(hours=1)

    peak, average = concurrency(service, start=NOON.isoformat(), end=minute.isoformat(), interval="minute")
    assert (peak, average) == expected
    peak, average = concurrency(service, start=NOON.isoformat(), end=hour.isoformat(), interval="hour")
    assert (peak, average * 60) == expected


MARCH = {"start": "2026-03-01", "end": "2026-03-31", "interval": "total"}


@pytest.mark.parametrize(
    "filters",
    [{}, {"workspace": "acme"}, {"workspace": "acme", "voice": "amy"}, {"workspace": "acme", "kind": "webhook"}],
)
def test_over_any_range_it_is_what_is_kept(service: TestedService, filters: dict[str, str]) -> None:
    for hours in range(0, 240, 24):
        at = NOON + timedelta(hours=hours)
        service.store.insert(
            [call(at, voice=voice, kind=kind) for voice in ("amy", "ben") for kind in ("request", "webhook")]
        )
        service.store.insert([call(at, workspace="other")])
    before = concurrency(service, **MARCH, **filters)

    service.roll_up()

    assert concurrency(service, **MARCH, **filters) == before
    assert before[0] == (1 if "voice" in filters else 2 if filters else 3)


@pytest.mark.parametrize(
    "filters",
    [{"route": "/v1/a"}, {"voice": "amy"}, {"workspace": "acme", "voice": ["amy", "ben"]}, {"not.voice": "amy"}],
)
def test_what_is_not_kept_is_refused_with_what_would_be_right(service: TestedService, filters: dict[str, Any]) -> None:
    refused = service.http.get("/v1/usage", params={"metric": "concurrency", **MARCH, **filters})

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["query", "metric"]
    assert "api_key, user, product, voice" in refused.json()["detail"][0]["msg"]
    week = {"start": "2026-03-01", "end": "2026-03-07"}
    assert service.http.get("/v1/usage", params={"metric": "concurrency", **week, **filters}).status_code == 200


def test_the_peak_of_all_others_together_is_not_made_of_their_peaks(service: TestedService) -> None:
    service.store.insert([call(NOON + timedelta(hours=i), voice=f"v{i}") for i in range(3)])
    service.roll_up()
    asked = {"metric": ["concurrency", "concurrency_average"], "breakdown": "voice", "workspace": "acme", "top": 1}

    found = {
        (one["metric"], one["key"]["voice"]): one["total"]
        for one in service.get("/v1/usage", OPERATOR, **asked, **MARCH)["series"]
    }

    assert found["concurrency", "v0"] == 1
    assert found["concurrency", "__other__"] is None
    assert found["concurrency_average", "__other__"] == pytest.approx(2 * found["concurrency_average", "v0"])


def test_a_question_that_takes_too_much_memory_is_refused_and_the_next_one_answered(
    service: TestedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.store.insert([call(NOON + timedelta(milliseconds=i), user=f"user-{i}") for i in range(20_000)])
    day = f"{NOON:%Y-%m-%d}"
    with monkeypatch.context() as patched:
        patched.setattr(service.store, "_question_bytes", 3_000_000)
        asked = {"metric": "concurrency", "breakdown": "user", "start": day, "end": day}
        refused = service.http.get("/v1/usage", params=asked)

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["query", "start"]
    assert "takes more memory than a question may: ask for a shorter range" in refused.text
    assert service.get("/v1/usage", metric="requests", start=day, end=day)["series"][0]["total"] == 20_000
