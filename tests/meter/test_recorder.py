"""What the recorder promises the app and Redis, against a real Redis."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServer, wait_until
from usage_meter import Meter, UsageEvent, keys
from usage_meter.event import new_id, unpack


def an_event(**fields: object) -> UsageEvent:
    started = time.time_ns() // 1000
    values: dict[str, object] = {"id": new_id(started), "started_us": started, "workspace": "acme"}
    return UsageEvent(**{**values, **fields})  # type: ignore[arg-type]


def _entries(client: Any, shard: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
    entries: list[tuple[bytes, dict[bytes, bytes]]] = client.xrange(keys.events(shard))
    return entries


def stored(client: Any, shard: int = 0) -> list[UsageEvent]:
    """Every event of a shard's stream, in order."""
    events: list[UsageEvent] = []
    for _, fields in _entries(client, shard):
        assert fields[b"v"] == b"1"
        events += unpack(fields[b"b"], int(fields[b"n"]))
    return events


@pytest.fixture
def meter(redis_server: RedisServer, tmp_path: Path) -> Iterator[Meter]:
    meter = Meter(redis_server.url, journal_dir=tmp_path / "journal", environ={})
    yield meter
    meter.close()


def test_what_was_recorded_arrives_in_order(meter: Meter, redis_client: Any) -> None:
    events = [an_event(path=f"/v1/{number}") for number in range(10_000)]

    assert all(meter.record(event) for event in events)

    wait_until(lambda: meter.recorder.statistics().sent == 10_000, "everything is sent")
    assert stored(redis_client) == events
    assert meter.recorder.statistics().queued_bytes == 0


def test_close_sends_what_is_left(meter: Meter, redis_client: Any) -> None:
    event = an_event()
    meter.record(event)

    assert meter.close()

    assert stored(redis_client) == [event]


def test_a_closed_meter_opens_again(meter: Meter, redis_client: Any) -> None:
    first, second = an_event(), an_event()
    meter.record(first)
    meter.close()

    meter.record(second)

    assert meter.close()
    assert stored(redis_client) == [first, second]


def test_a_lone_surrogate_is_replaced(meter: Meter, redis_client: Any) -> None:
    assert meter.record(an_event(path="/v1/\udcff", attributes={"tier": "\ud800"}))

    meter.close()
    assert [(event.path, event.attributes) for event in stored(redis_client)] == [("/v1/?", {"tier": "?"})]


def test_an_event_outside_the_contract_is_dropped_and_counted(meter: Meter) -> None:
    assert not meter.record(an_event(status=-1))
    assert not meter.record("what?")  # type: ignore[arg-type]

    assert meter.recorder.statistics().dropped == {"invalid": 2}


def test_calls_in_flight_are_published_and_taken_back(meter: Meter, redis_client: Any) -> None:
    key = keys.inflight(0, meter.recorder.instance)
    meter.recorder.enter("acme", "k1")
    meter.recorder.enter("acme", "k1")
    meter.recorder.enter("umbrella", "")

    wait_until(lambda: len(redis_client.hgetall(key)) == 2, "both callers are published")
    assert redis_client.hgetall(key) == {
        keys.inflight_field("acme", "k1"): b"2",
        keys.inflight_field("umbrella", ""): b"1",
    }
    assert 0 < redis_client.ttl(key) <= keys.INFLIGHT_SECONDS

    meter.recorder.leave("acme", "k1")
    meter.recorder.leave("acme", "k1")
    meter.recorder.leave("umbrella", "")
    wait_until(lambda: not redis_client.exists(key), "nothing is in flight")
    assert meter.recorder.statistics().in_flight == 0


def test_the_live_tallies_hold_credits_and_requests(meter: Meter, redis_client: Any) -> None:
    for voice in ("en", "en", "de"):
        meter.record(an_event(voice=voice, credits_micro=2_000_000, user="alice"))
    meter.close()

    month = keys.period_name("month", time.time())
    assert redis_client.zrange(keys.live(0, "credits", "voice", month, "acme"), 0, -1, withscores=True) == [
        (b"de", 2_000_000.0),
        (b"en", 4_000_000.0),
    ]
    requests = keys.live(0, "requests", "user", month, "acme")
    assert redis_client.zscore(requests, "alice") == 3.0
    assert 0 < redis_client.ttl(requests) <= keys.LIVE_SECONDS["month"]


def test_a_correction_changes_the_live_tallies_by_the_difference(meter: Meter, redis_client: Any) -> None:
    first = an_event(credits_micro=1_000_000, user="alice")
    second = an_event(id=first.id, version=2, credits_micro=5_000_000, user="alice")
    meter.recorder.record(first)
    meter.recorder.record(second, replaces=first)
    meter.close()

    month = keys.period_name("month", time.time())
    assert redis_client.zscore(keys.live(0, "credits", "user", month, "acme"), "alice") == 5_000_000.0
    assert redis_client.zscore(keys.live(0, "requests", "user", month, "acme"), "alice") == 1.0


def test_a_process_says_that_it_lives_and_takes_its_leave(meter: Meter, redis_client: Any) -> None:
    meter.record(an_event())
    name = meter.recorder.instance.encode()

    wait_until(lambda: name in redis_client.zrange(keys.INSTANCES, 0, -1), "the process is listed")

    meter.close()
    assert redis_client.zrange(keys.INSTANCES, 0, -1) == []
    assert redis_client.smembers(keys.SHARDS) == {b"0"}
