"""What happens right now: calls in flight and top lists from Redis, and the streams over a real connection."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
import redis

from aggregator.store import Store
from aggregator.tokens import Principal
from tests.aggregator.events import call
from tests.aggregator.service import TestedService, listening
from usage_meter import keys

ALICE = Principal("member", "acme", "alice")
ADMIN = Principal("admin", "acme", "root")


@pytest.fixture
def service(store: Store, redis_client: "redis.Redis") -> TestedService:
    return TestedService(store, redis_client)


def publish(client: "redis.Redis", in_flight: dict[tuple[str, str], int], late_seconds: float = 0) -> None:
    """As a recorder does it, on a machine whose clock may be late."""
    client.zadd(keys.INSTANCES, {"web-1": time.time() - late_seconds})
    fields = {keys.inflight_field(*caller): count for caller, count in in_flight.items()}
    client.hset(keys.inflight(0, "web-1"), mapping=fields)  # type: ignore[arg-type]


def test_calls_in_flight_are_those_of_the_asker(service: TestedService, redis_client: "redis.Redis") -> None:
    publish(redis_client, {("acme", "key-a"): 3, ("acme", "key-b"): 2, ("globex", "key-c"): 7})
    service.store.insert([call(datetime.now(UTC), api_key="key-a")])

    assert service.get("/v1/live", ADMIN)["in_flight"] == 5
    assert service.get("/v1/live", ALICE)["in_flight"] == 3
    assert service.get("/v1/live", Principal("operator"))["in_flight"] == 12
    assert service.get("/v1/live", Principal("operator"), workspace="globex")["in_flight"] == 7


def test_calls_in_flight_are_seen_whatever_their_machine_s_clock_says_and_age_out(
    service: TestedService, redis_client: "redis.Redis"
) -> None:
    publish(redis_client, {("acme", "key-a"): 3}, late_seconds=300)

    assert service.get("/v1/live", ADMIN)["in_flight"] == 3
    redis_client.expire(keys.inflight(0, "web-1"), 0)  # as its lifetime does it, once nobody refreshes it
    assert service.get("/v1/live", ADMIN)["in_flight"] == 0


def test_top_lists_come_from_redis_and_a_member_sees_only_the_own_line(
    service: TestedService, redis_client: "redis.Redis"
) -> None:
    hour = keys.period_name("hour", time.time())
    for metric, amounts in {"credits": {"alice": 1_500_000, "bob": 7}, "requests": {"alice": 2, "bob": 9}}.items():
        redis_client.zadd(keys.live(0, metric, "user", hour, "acme"), amounts)

    seen = service.get("/v1/live", ADMIN)["hour"]
    mine = service.get("/v1/live", ALICE)["hour"]

    assert [(one["value"], one["total"]) for one in seen["credits"]["user"]] == [("alice", 1.5), ("bob", 0.000007)]
    assert [(one["value"], one["total"]) for one in seen["requests"]["user"]] == [("bob", 9), ("alice", 2)]
    assert [one["value"] for one in mine["requests"]["user"]] == ["alice"]
    assert service.get("/v1/live", Principal("admin", "globex"))["hour"]["credits"]["user"] == []


def test_the_last_minute_is_counted_from_the_store(service: TestedService) -> None:
    service.store.insert([call(datetime.now(UTC), credits=2), call(datetime.now(UTC), user="bob", outcome="exception")])

    assert service.get("/v1/live", ADMIN)["last_minute"] == {"requests": 2, "credits": 3, "errors": 1}
    assert service.get("/v1/live", ALICE)["last_minute"] == {"requests": 1, "credits": 2, "errors": 0}


def events(response: httpx.Response) -> Iterator[dict[str, object]]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_the_tail_shows_each_matching_call_once_as_it_is_stored(service: TestedService) -> None:
    before = call(datetime.now(UTC), request_id="before")
    service.store.insert([before])
    with listening(service) as address:
        url, headers = f"{address}/v1/requests/stream?scope=workspace&voice=en", service.headers(ADMIN)
        with httpx.stream("GET", url, headers=headers, timeout=20) as response:
            lines = events(response)
            service.store.insert([call(datetime.now(UTC), voice="en", request_id="first")])
            assert next(lines)["request_id"] == "first"
            service.store.insert([call(datetime.now(UTC), voice="de"), call(datetime.now(UTC), workspace="globex")])
            service.store.insert([call(datetime.now(UTC), voice="en", request_id="second")])
            assert next(lines)["request_id"] == "second"


def test_the_live_stream_says_again_and_again_what_a_look_says(service: TestedService) -> None:
    headers = service.headers(ADMIN)
    with (
        listening(service) as address,
        httpx.stream("GET", f"{address}/v1/live/stream", headers=headers, timeout=20) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = events(response)
        assert next(lines)["in_flight"] == next(lines)["in_flight"] == 0


def test_a_stream_needs_a_token_like_everything(service: TestedService) -> None:
    assert service.http.get("/v1/live/stream").status_code == 401
    assert service.http.get("/v1/requests/stream").status_code == 401
