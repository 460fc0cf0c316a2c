"""The demo's past: real events, each once, however often the demo is started."""

import socket
from datetime import UTC, date, datetime, timedelta

import redis

from aggregator.demo import is_listening, load_days, missing_days
from aggregator.query import Statement
from aggregator.retention import Retention
from aggregator.store import Store
from examples.speech_api.history import History
from tests.aggregator.service import TestedService
from usage_meter.event import EventRow, id_text

NOW = datetime.now(UTC)
PAST = History(lambda key: (f"hash of {key}", key[-4:]))


def load(store: Store, now: datetime, days: int) -> dict[date, list[EventRow]]:
    """What a start of the demo at that moment stores."""
    made: dict[date, list[EventRow]] = {}

    def events_of(day: date) -> list[EventRow]:
        made[day] = PAST.over(day, now)
        return made[day]

    assert list(load_days(store, events_of, missing_days(store, now, Retention(), days))) == list(made)
    return made


def test_its_calls_are_found_and_a_second_start_adds_only_what_is_new(
    store: Store, redis_client: "redis.Redis"
) -> None:
    service = TestedService(store, redis_client)
    today, two_days_ago = NOW.date(), NOW - timedelta(days=2)

    first = load(store, two_days_ago, days=3)
    second = load(store, NOW, days=6)

    assert list(second) == [today - timedelta(days=ago) for ago in (6, 2, 1, 0)], "what lacks, and what was not over"
    by_id = {row.id: row for day in (*first.values(), *second.values()) for row in day}
    found = store.select(Statement("SELECT count(), uniqExact(id) FROM events FINAL", {}))
    assert found == [(len(by_id), len(by_id))]
    one = first[two_days_ago.date() - timedelta(days=1)][7]
    listed = service.get(f"/v1/requests/{id_text(one.id)}")
    assert (listed["path"], listed["duration_ms"]) == (one.path, one.duration_us / 1000)


def test_days_that_are_sealed_are_left_out(store: Store) -> None:
    noon = NOW.replace(hour=12)

    days = missing_days(store, noon, Retention(raw=9))

    assert days == [noon.date() - timedelta(days=ago) for ago in range(9, -1, -1)]


def test_its_api_is_awaited_without_a_call_that_it_would_count() -> None:
    with socket.create_server(("127.0.0.1", 0)) as api:
        url = f"http://127.0.0.1:{api.getsockname()[1]}"

        assert is_listening(url)

        connection, _ = api.accept()
        with connection:
            assert connection.recv(1) == b"", "nothing was asked"
    assert not is_listening(url)
