"""kill -9 of the whole service at random moments, while events come in: every total stays exact."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.aggregator.events import NOON, call, entry
from tests.conftest import RedisServer, wait_until
from tests.processes import ServiceProcess, serving
from usage_meter import Meter, keys
from usage_meter.event import MICRO, UsageEvent

LIVES = 2
RANGE: dict[str, Any] = {"start": "2026-03-01", "end": "2026-04-01"}


class Apps:
    """Sends entries of random events to two shards, some of them twice, and remembers what the totals must be."""

    def __init__(self, client: "redis.Redis", seed: int) -> None:
        self.events = 0
        self.credits: Counter[str] = Counter()
        self._redis = client
        self._random = random.Random(seed)
        client.sadd(keys.SHARDS, 0, 1)

    def send(self) -> None:
        events = [self._event() for _ in range(self._random.randint(1, 300))]
        fields = entry(*events)
        for _ in range(1 + (self._random.random() < 0.05)):
            self._redis.xadd(keys.events(self._random.randrange(2)), fields)
        self.events += len(events)
        for event in events:
            self.credits[event.voice] += event.credits_micro

    def _event(self) -> UsageEvent:
        moment = NOON + timedelta(seconds=self._random.uniform(-2, 2) * 86_400)
        return call(moment, voice=self._random.choice("abcdef"), credits_micro=self._random.randrange(10**9))


@contextmanager
def sending(apps: Apps) -> Iterator[None]:
    """All the while, about as much as one service takes."""
    stop = threading.Event()

    def go_on() -> None:
        while not stop.wait(0.05):
            apps.send()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def credits_by_voice(service: ServiceProcess) -> dict[str, Decimal]:
    answer = service.get("/v1/usage", metric="credits", breakdown="voice", interval="total", **RANGE)
    return {one["key"]["voice"]: Decimal(str(one["total"])) for one in answer["series"]}


def test_totals_are_exact_after_kills_at_random_moments(
    redis_server: RedisServer, redis_client: "redis.Redis", tmp_path: Path
) -> None:
    apps, chance = Apps(redis_client, seed=4), random.Random(4)
    with sending(apps):
        for _ in range(LIVES):
            with serving(tmp_path / "data", redis_url=redis_server.url) as service:
                before = service.total("requests", **RANGE)
                wait_until(lambda: service.total("requests", **RANGE) > before, "the service stores again")  # noqa: B023
                threading.Event().wait(chance.uniform(0, 0.5))
                service.kill()
    with serving(tmp_path / "data", redis_url=redis_server.url) as service:
        wait_until(lambda: not redis_client.xlen(keys.events(0)) + redis_client.xlen(keys.events(1)), "all is stored")

        assert service.total("requests", **RANGE) == apps.events
        assert credits_by_voice(service) == {voice: Decimal(micro) / MICRO for voice, micro in apps.credits.items()}
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
