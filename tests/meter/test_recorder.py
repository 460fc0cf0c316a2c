"""What the recorder promises the app and Redis, against a real Redis."""

import gc
import math
import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServer, wait_until
from usage_meter import Meter, UsageEvent, keys, sender
from usage_meter.event import FORMAT_VERSION, new_id, unpack
from usage_meter.journal import Journal
from usage_meter.recorder import Recorder, Statistics
from usage_meter.settings import MeterSettings

GRANTED = (Path(__file__).parents[2] / "docs/operations.md").read_text().split("~um:*")[1].split("`")[0].split()


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
        assert fields[b"v"] == b"%d" % FORMAT_VERSION
        events += unpack(fields[b"b"], int(fields[b"n"]))
    return events


@pytest.fixture
def meter(redis_server: RedisServer, tmp_path: Path) -> Iterator[Meter]:
    meter = Meter(redis_server.url, journal_dir=tmp_path / "journal", environ={})
    yield meter
    meter.close()


@pytest.fixture
def quick_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "HEARTBEAT_SECONDS", 0.1)


class Suspended:
    """A call that nobody goes on with: when it is collected, its end is recorded."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.itself = self

    def __del__(self) -> None:
        self.meter.record(an_event(path="/suspended"))


def test_garbage_may_be_collected_in_the_midst_of_recording(
    meter: Meter, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Journal.append

    def collecting(journal: Journal, shard: int, encoded: bytes) -> bool:
        gc.collect()
        return append(journal, shard, encoded)

    def work() -> None:
        for _ in range(20):
            Suspended(meter)
            meter.record(an_event(path="/recorded"))

    meter.recorder.open()
    gc.collect()
    gc.freeze()  # what the other tests have left need not be looked through each time
    gc.disable()
    try:
        monkeypatch.setattr(Journal, "append", collecting)
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        worker.join(30)
        assert not worker.is_alive(), "it waits for itself"
    finally:
        gc.enable()
        gc.unfreeze()
        monkeypatch.undo()
    meter.close()
    paths = [event.path for event in stored(redis_client)]
    assert paths.count("/recorded") == 20
    assert paths.count("/suspended") == 20


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
    for strange in (math.nan, math.inf, -math.inf):
        assert not meter.record(an_event(quantities={"tokens": strange}))

    assert meter.recorder.statistics().dropped == {"invalid": 5}


def test_calls_in_flight_are_published_and_taken_back(meter: Meter, redis_client: Any) -> None:
    key = keys.inflight(0, meter.recorder.instance)
    calls = [an_event(api_key="k1"), an_event(api_key="k1"), an_event(workspace="umbrella")]
    for call in calls:
        meter.recorder.enter(call)

    wait_until(lambda: len(redis_client.hgetall(key)) == 2, "both callers are published")
    assert redis_client.hgetall(key) == {
        keys.inflight_field("acme", "k1"): b"2",
        keys.inflight_field("umbrella", ""): b"1",
    }
    assert 0 < redis_client.ttl(key) <= keys.INFLIGHT_SECONDS

    for call in calls:
        meter.recorder.leave(call)
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


def test_events_carry_the_name_of_their_process(meter: Meter, redis_client: Any) -> None:
    meter.record(an_event())
    meter.record(an_event(instance="a gateway"))
    name = meter.recorder.instance

    meter.close()

    assert [event.instance for event in stored(redis_client)] == [name, "a gateway"]


def test_many_threads_lose_nothing(meter: Meter, redis_client: Any) -> None:
    events = [an_event(user=f"user-{number}") for number in range(8000)]

    def record(part: int) -> None:
        for event in events[part::8]:
            meter.recorder.enter(event)
            meter.record(event)
            meter.recorder.leave(event)

    threads = [threading.Thread(target=record, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.close()

    assert sorted(event.id for event in stored(redis_client)) == sorted(event.id for event in events)
    assert meter.recorder.statistics() == Statistics(recorded=8000, sent=8000)


def test_a_close_in_the_middle_of_traffic_loses_nothing(meter: Meter, redis_client: Any) -> None:
    events = [an_event() for _ in range(3000)]
    recording = threading.Thread(target=lambda: [meter.record(event) for event in events])
    recording.start()
    while recording.is_alive():
        meter.close()
    meter.close()

    assert {event.id for event in stored(redis_client)} == {event.id for event in events}


def test_a_redis_that_is_not_there_is_said_once_and_counted(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.kill()
    with Meter(redis_server.url, journal_dir=tmp_path / "journal", environ={}) as meter:
        event = an_event()
        meter.record(event)
        wait_until(lambda: meter.recorder.statistics().send_errors > 1, "it was tried more than once")
        assert meter.recorder.statistics().queued_bytes > 0

        redis_server.start()
        wait_until(lambda: meter.recorder.statistics().sent == 1, "the event is sent")

    assert ["takes no events" in record.message for record in caplog.records] == [True, False]
    with redis_server.client() as client:
        assert stored(client) == [event]


def test_close_waits_no_longer_than_told_for_a_redis_that_never_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        meter = Meter(url, journal_dir=tmp_path / "journal", redis_timeout=60.0, environ={})
        meter.record(an_event())

        assert not meter.close(timeout=0.2)


def test_somebody_else_s_value_in_a_live_key_does_not_stop_events(meter: Meter, redis_client: Any) -> None:
    month = keys.period_name("month", time.time())
    redis_client.set(keys.live(0, "requests", "user", month, "acme"), "not a sorted set")

    events = [an_event(user="alice"), an_event(user="bob")]
    for event in events:
        meter.record(event)

    assert meter.close()
    assert stored(redis_client) == events  # once each
    assert meter.recorder.statistics().failures["live tally"] > 0


def test_the_calls_of_a_dead_process_age_out(meter: Meter, redis_client: Any) -> None:
    meter.recorder.enter(an_event())
    key = keys.inflight(0, meter.recorder.instance)
    wait_until(lambda: redis_client.exists(key), "the call is published")

    lifetime = keys.INFLIGHT_SECONDS * 1000
    wait_until(lambda: 0 < redis_client.pttl(key) < lifetime - 1000, "its lifetime runs down")
    wait_until(lambda: redis_client.pttl(key) > lifetime - 500, "the living process refreshes it")


def test_a_leave_without_an_enter_changes_nothing(meter: Meter) -> None:
    meter.recorder.leave(an_event())
    meter.recorder.enter(an_event())

    assert meter.recorder.statistics().in_flight == 1


def test_workspaces_keep_to_their_shard(redis_server: RedisServer, redis_client: Any, tmp_path: Path) -> None:
    events = [an_event(workspace=f"w{number % 20}") for number in range(200)]
    with Meter(redis_server.url, shards=4, journal_dir=tmp_path / "journal", environ={}) as meter:
        for event in events:
            meter.record(event)

    for shard in range(4):
        mine = [event for event in events if keys.shard_of(event.workspace, 4) == shard]
        assert stored(redis_client, shard) == mine
    assert redis_client.smembers(keys.SHARDS) == {b"0", b"1", b"2", b"3"}


def test_old_hours_are_not_tallied(meter: Meter, redis_client: Any) -> None:
    long_ago = 1_000_000_000_000_000  # 2001
    meter.record(an_event(started_us=long_ago, user="alice"))
    meter.close()

    assert redis_client.keys("um:{0}:live:*") == []


def test_webhooks_are_not_tallied(meter: Meter, redis_client: Any) -> None:
    meter.record(an_event(kind="webhook", credits_micro=1_000_000))
    meter.close()

    assert redis_client.keys("um:{0}:live:*") == []


def test_everything_in_redis_but_the_books_has_a_lifetime(meter: Meter, redis_client: Any) -> None:
    meter.recorder.enter(an_event())
    for number in range(50):
        meter.record(an_event(user=f"user-{number}", credits_micro=1))
    wait_until(lambda: redis_client.keys("um:{0}:live:*"), "the tally is published")

    lasting = {key for key in redis_client.keys("*") if redis_client.ttl(key) == -1}
    assert lasting == {b"um:{0}:events", b"um:instances", b"um:shards"}


def test_nothing_of_ours_reaches_the_app(meter: Meter, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert not meter.recorder.record(None)  # type: ignore[arg-type]
        meter.recorder.enter(None)  # type: ignore[arg-type]
        meter.recorder.failed("identify", ZeroDivisionError("the app's own"))

    assert meter.recorder.statistics().failures == {"record": 3, "enter": 3, "identify": 3}
    assert meter.recorder.statistics().dropped == {"unencodable": 3}
    assert len(caplog.records) == 3  # once per kind


def test_a_redis_out_of_memory_gets_the_events_when_it_has_room(meter: Meter, redis_client: Any) -> None:
    redis_client.config_set("maxmemory", "1")
    event = an_event()
    meter.record(event)
    wait_until(lambda: meter.recorder.statistics().send_errors > 0, "Redis has refused")

    redis_client.config_set("maxmemory", "0")

    wait_until(lambda: meter.recorder.statistics().sent == 1, "Redis has taken it")
    assert stored(redis_client) == [event]


def test_without_a_thread_events_are_kept_until_there_is_one(meter: Meter, redis_client: Any) -> None:
    first, second = an_event(), an_event()
    usual = threading.stack_size(2**40)  # more than there is: no thread can be started
    try:
        assert meter.record(first)
    finally:
        threading.stack_size(usual)
    assert meter.recorder.statistics().failures == {"the sending thread": 1}
    assert meter.recorder.statistics().queued_bytes > 0

    meter.record(second)

    wait_until(lambda: meter.recorder.statistics().sent == 2, "both are sent")
    assert stored(redis_client) == [first, second]


def test_where_nothing_may_be_written_events_go_by_way_of_the_memory(
    redis_server: RedisServer, redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:  # as Python says it in a container with a read-only file system
        raise FileNotFoundError("No usable temporary directory found in ['/tmp', '/var/tmp', '/usr/tmp', '/']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    event = an_event()
    with Meter(redis_server.url, environ={}) as meter:
        assert meter.record(event)

    assert stored(redis_client) == [event]
    assert meter.recorder.statistics().failures == {"journal": 1}


@pytest.mark.usefixtures("quick_heartbeat")
def test_a_stream_that_has_gone_back_gets_again_what_it_lost(meter: Meter, redis_client: Any) -> None:
    events = [an_event() for _ in range(10)]
    for event in events:
        meter.record(event)
    wait_until(lambda: meter.recorder.statistics().sent == 10, "all are sent")
    heartbeat = redis_client.zscore(keys.INSTANCES, meter.recorder.instance)
    wait_until(lambda: redis_client.zscore(keys.INSTANCES, meter.recorder.instance) > heartbeat, "some time has passed")

    redis_client.delete(keys.events(0))  # as a replica that was promoted too early does it

    wait_until(lambda: meter.recorder.statistics().resent == 10, "all are sent again")
    assert stored(redis_client) == events
    assert meter.recorder.statistics().sent == 10


LOOKS = ("-info", "-xinfo")  # by which an app sees that its Redis has lost something


def restricted(redis_server: RedisServer, client: Any, *denied: str) -> str:
    """The URL of a user of this Redis who may do what an app does (docs/operations.md), but for what is denied."""
    client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", "~um:*", *GRANTED, *denied)
    return redis_server.url.replace("//", "//app:secret@")


def test_a_user_with_no_more_rights_than_an_app_needs(
    redis_server: RedisServer, redis_client: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = restricted(redis_server, redis_client)
    with Meter(url, journal_dir=tmp_path / "journal", environ={}) as meter:
        meter.recorder.enter(an_event())
        event = an_event(user="alice", credits_micro=1)
        meter.record(event)
        wait_until(lambda: redis_client.keys("um:{0}:inflight:*"), "calls in flight are published")

    assert stored(redis_client) == [event]
    assert redis_client.zscore(keys.live(0, "credits", "user", keys.period_name("month", time.time()), "acme"), "alice")
    assert caplog.messages == []


@pytest.mark.usefixtures("quick_heartbeat")
def test_a_redis_that_may_not_be_asked_what_it_has_gets_each_event_once(
    redis_server: RedisServer, redis_client: Any, tmp_path: Path
) -> None:
    event = an_event()
    url = restricted(redis_server, redis_client, *LOOKS)
    with Meter(url, journal_dir=tmp_path / "journal", environ={}) as meter:
        meter.record(event)
        name = meter.recorder.instance
        wait_until(lambda: redis_client.zscore(keys.INSTANCES, name), "it has said that it lives")
        first = redis_client.zscore(keys.INSTANCES, name)
        wait_until(lambda: redis_client.zscore(keys.INSTANCES, name) > first + 0.3, "it has said so several times more")

    assert stored(redis_client) == [event]
    assert meter.recorder.statistics().resent == 0


@pytest.mark.usefixtures("quick_heartbeat")
def test_a_redis_that_hides_its_run_id_is_seen_to_have_gone_back_by_its_stream(
    redis_server: RedisServer, redis_client: Any, tmp_path: Path
) -> None:
    events = [an_event() for _ in range(10)]
    url = restricted(redis_server, redis_client, "-info")
    with Meter(url, journal_dir=tmp_path / "journal", environ={}) as meter:
        for event in events:
            meter.record(event)
        wait_until(lambda: meter.recorder.statistics().sent == 10, "all are sent")

        redis_client.delete(keys.events(0))  # as a replica that was promoted too early does it

        wait_until(lambda: meter.recorder.statistics().resent == 10, "all are sent again")

    assert stored(redis_client) == events


def test_an_opened_recorder_sends_what_a_dead_process_left_before_any_call(
    meter: Meter, redis_client: Any, tmp_path: Path
) -> None:
    event = an_event()
    process = multiprocessing.get_context("spawn").Process(target=record_and_die, args=(meter.settings, event))
    process.start()
    process.join()

    meter.recorder.open()

    wait_until(lambda: [found.id for found in stored(redis_client)] == [event.id], "the dead process's event is there")


def record_and_die(settings: MeterSettings, event: UsageEvent) -> None:
    Recorder(settings).record(event)
    os.kill(os.getpid(), signal.SIGKILL)
