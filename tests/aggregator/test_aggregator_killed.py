"""kill -9 of the whole service at random moments, while events come in: every total stays exact.

A million events and fifty kills by `pytest --million tests/aggregator/test_aggregator_killed.py`; fewer otherwise.
"""

import random
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from aggregator.buckets import HOUR_US
from tests.aggregator.events import NOON, call, entry, us
from tests.conftest import RedisServer, wait_until
from tests.processes import ServiceProcess, repeatedly, serving
from usage_meter import Meter, keys
from usage_meter.event import MICRO, UsageEvent

RANGE: dict[str, Any] = {"start": "2026-03-01", "end": "2026-04-01"}
SEND_AGAIN, LATE = 0.05, 0.02  # of all events: sent a second time some entries later; a day behind the others


@dataclass(frozen=True)
class Extent:
    events: int
    kills: int
    checked_every: int
    """Kills after which all that was sent is waited for and held against plain Python."""
    longest_life: float
    """Seconds from the first event that a service stores until it is killed."""


SMALL = Extent(events=20_000, kills=2, checked_every=2, longest_life=0.5)
MILLION = Extent(events=1_000_000, kills=50, checked_every=10, longest_life=4.0)


class Apps:
    """Sends entries of random events over three days to two shards, and remembers what the totals must be.

    It sends as far as it is allowed to: `allow` more before each life, so that every life has something to do.
    """

    def __init__(self, client: "redis.Redis", extent: Extent, seed: int) -> None:
        self.sent = 0
        self.allowed = 0
        self.calls: Counter[tuple[int, str]] = Counter()
        """By hour (UTC microseconds) and voice."""
        self.credits_micro: Counter[tuple[int, str]] = Counter()
        self._redis = client
        self._extent = extent
        self._random = random.Random(seed)
        self._again: list[UsageEvent] = []
        client.sadd(keys.SHARDS, 0, 1)

    def allow(self, part: float) -> None:
        self.allowed = round(self._extent.events * part)

    def send(self) -> None:
        if self.sent >= self.allowed:
            return
        new = [self._event() for _ in range(min(self._random.randint(1, 1000), self.allowed - self.sent))]
        events = new + self._again
        self._random.shuffle(events)
        self._redis.xadd(keys.events(self._random.randrange(2)), entry(*events))
        self._again = [event for event in new if self._random.random() < SEND_AGAIN]
        for event in new:
            key = event.started_us - event.started_us % HOUR_US, event.voice
            self.calls[key] += 1
            self.credits_micro[key] += event.credits_micro
        self.sent += len(new)

    def _event(self) -> UsageEvent:
        day = self.sent / self._extent.events * 2 + self._random.uniform(0, 1) - (self._random.random() < LATE)
        moment = NOON + timedelta(days=day)
        return call(moment, voice=self._random.choice("abcdef"), credits_micro=self._random.randrange(10**9))


def by_hour_and_voice(service: ServiceProcess, metric: str) -> dict[tuple[int, str], Decimal]:
    answer = service.get("/v1/usage", metric=metric, breakdown="voice", interval="hour", **RANGE)
    hours = [us(datetime.fromisoformat(hour)) for hour in answer["buckets"]]
    return {
        (hour, one["key"]["voice"]): Decimal(str(value))
        for one in answer["series"]
        for hour, value in zip(hours, one["values"], strict=True)
        if value
    }


def wait_until_all_is_stored(apps: Apps, client: "redis.Redis") -> None:
    wait_until(lambda: apps.sent == apps.allowed, "all is sent", 120)
    wait_until(lambda: not client.xlen(keys.events(0)) + client.xlen(keys.events(1)), "all is stored", 300)


def assert_exact(service: ServiceProcess, apps: Apps) -> None:
    assert service.total("requests", **RANGE) == apps.sent
    assert by_hour_and_voice(service, "requests") == apps.calls
    credits = {key: Decimal(micro) / MICRO for key, micro in apps.credits_micro.items() if micro}
    assert by_hour_and_voice(service, "credits") == credits


@pytest.mark.timeout(3600)
def test_totals_are_exact_after_kills_at_random_moments(
    redis_server: RedisServer, redis_client: "redis.Redis", tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    extent = MILLION if request.config.getoption("--million") else SMALL
    apps, chance = Apps(redis_client, extent, seed=4), random.Random(4)
    with repeatedly(apps.send, 0.01):
        for life in range(extent.kills):
            apps.allow((life + 0.5) / (extent.kills + 1))  # while nobody takes it
            with serving(tmp_path / "data", redis_url=redis_server.url) as service:
                before = service.total("requests", **RANGE)
                apps.allow((life + 1) / (extent.kills + 1))
                wait_until(lambda: service.total("requests", **RANGE) > before, "it stores again", 60)  # noqa: B023
                threading.Event().wait(chance.uniform(0, extent.longest_life))
                if (life + 1) % extent.checked_every == 0:
                    wait_until_all_is_stored(apps, redis_client)
                    assert_exact(service, apps)
                service.kill()
        apps.allow(1)
        with serving(tmp_path / "data", redis_url=redis_server.url) as service:
            wait_until_all_is_stored(apps, redis_client)

            assert_exact(service, apps)
            assert redis_client.xlen(keys.dead(0)) + redis_client.xlen(keys.dead(1)) == 0
            assert service.stop() == 0


def test_a_call_is_seen_soon_after_its_end(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the recorder's journal, Redis, the store and the API. The figure is printed, since machines differ."""
    with (
        serving(tmp_path / "data", redis_url=redis_server.url) as service,
        Meter(redis_server.url, journal_dir=tmp_path / "journal") as meter,
    ):
        recorded: list[float] = []
        pause = threading.Event()

        def record() -> None:
            for number in range(40):
                meter.record(call(user=f"user-{number}"))
                recorded.append(time.monotonic())
                pause.wait(0.05)

        thread = threading.Thread(target=record)
        thread.start()
        seen: list[float] = []
        while len(seen) < 40 and time.monotonic() < (recorded or [time.monotonic()])[-1] + 20:
            count = service.total("requests", **RANGE)
            seen += [time.monotonic()] * (count - len(seen))
        thread.join()

    lags = sorted(after - before for before, after in zip(recorded, seen, strict=True))
    with capsys.disabled():
        print(f" p50 {lags[len(lags) // 2]:.2f} s, p99 {lags[-1]:.2f} s from the end of a call until it is counted ")
